"""DPO: the SFT adapter learns from pairs of responses, by TRL's DPOTrainer; no reward model, no sampling.

Rafailov et al., arXiv 2305.18290: -log sigmoid(beta (r(chosen) - r(rejected))), r the log ratio of policy to
reference over a response's tokens. The reference is the SFT adapter again, frozen, on the one base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from align.data.store import kept
from align.data.tokenize import Encodings, encode_rankings
from align.errors import UserError
from align.models.adapter_products import multiply_in_input_dtype
from align.models.adapters import parameters_of, read_adapter, save_adapter
from align.models.forward import check_padding
from align.models.logits import check_trainer
from align.models.suitable import check_base
from align.plan.flops import work_of
from align.plan.lengths import lengths_of_demonstrations
from align.plan.shares import microbatches
from align.plan.speed import Computed, of_pairs
from align.recipe.sections import Recipe
from align.records import Ranking
from align.run.checkpoint import load_into
from align.run.folder import StageRun
from align.seeds import generator, step_rows
from align.stages.frame import Inputs, Setup
from align.stages.ranking_rows import EncodedRows, RankingRow
from align.stages.trainer import ResumableTrainer, trl_arguments
from align.stats.rankings import Ranks, comparisons

REFERENCE = "ref"  # the adapter's name by which TRL knows its reference
_METRICS = {
    "loss": "train/loss",
    "rewards/accuracies": "train/accuracy",
    "rewards/margins": "train/margin",
    "rewards/chosen": "train/chosen",
    "rewards/rejected": "train/rejected",
    "grad_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
}


class PairIds(NamedTuple):
    """Token ids of a prompt with the response that was preferred, and the one that was not."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def pairs_of_ranks(ranks: Ranks, which: Literal["all", "best"]) -> list[tuple[int, int]]:
    """(better, worse) of each pair that a ranking gives; ties give none.

    all: of each two responses of different ranks. best: of each best response with each that is worse.
    """
    found = comparisons(ranks)
    first = min((rank for rank in ranks if rank is not None), default=0)
    return found if which == "all" else [(i, j) for i, j in found if ranks[i] == first]


def pairs_of(rows: Sequence[RankingRow], which: Literal["all", "best"]) -> list[PairIds]:
    """The pairs of all rankings, in their order."""
    return [
        PairIds(row.encoded.prompt, row.encoded.responses[better], row.encoded.responses[worse])
        for row in rows
        for better, worse in pairs_of_ranks(row.ranks, which)
    ]


def run(recipe: Recipe, restart: bool = False, anyway: bool = False) -> None:
    """Train the policy that the recipe's `dpo` describes, or go on from its newest checkpoint.

    anyway: also where memory will not do. Raises MissingStage where sft has not finished, UserError where the
    recipe, the base or the data must be changed first.
    """
    cfg, inputs = recipe.dpo, Inputs(recipe, "dpo", restart, anyway=anyway)
    check_base(inputs.setup.base, recipe.lora)
    if inputs.setup.shard_group is not None or recipe.lora.modules_to_save:
        what = "lora.modules_to_save" if recipe.lora.modules_to_save else "a sharded base"
        raise UserError(f"dpo does not go with {what}, as TRL's trainer keeps its reference as an adapter")
    microbatches(cfg, inputs.setup.accel.num_processes, "dpo", "pairs")
    sft = inputs.parent("sft", "sft", cfg.sft)
    inputs.read(Ranking)
    with inputs.open() as stage:
        if stage.finished:
            return
        train, held_out = inputs.encode(stage, Ranking, encode_rankings, cfg.max_length)
        pairs, others = (pairs_of(EncodedRows(side), cfg.pairs) for side in (train, held_out))
        if not pairs:
            raise UserError(
                "data.rankings: no ranking puts one response before another: dpo learns from pairs"
            )
        _tell(stage, train, pairs, recipe)
        steps = cfg.steps or -(-cfg.epochs * len(pairs) // cfg.batch_size)
        recipe = inputs.settled(stage, lengths_of_demonstrations(recipe, _longest(pairs)))
        trainer = _trainer(recipe, inputs.setup, stage, _policy(inputs.setup, sft), pairs, others, steps)
        trainer.go()

        def write(folder: Any) -> None:
            save_adapter(trainer.model, "default", folder)
            inputs.setup.template.save_tokenizer(folder)

        stage.finish(write, trainer.results)
        found = "".join(f", {name} {value:.4g}" for name, value in trainer.results.items())
        stage.say(f"dpo has finished after {steps} steps{found}; its adapter is in {stage.final}")


def _tell(stage: StageRun, train: Encodings[Any], pairs: Sequence[PairIds], recipe: Recipe) -> None:
    """Say what the rankings become, and what is dropped of them."""
    ranked = [[rank for rank in record.ranks if rank is not None] for record in train.records]
    whole = sum(len(ranks) * (len(ranks) - 1) // 2 for ranks in ranked)
    decided = sum(len(comparisons(ranks)) for ranks in ranked)
    rest = f"; {decided - len(pairs)} between others are left out (dpo.pairs: best)" * (decided > len(pairs))
    ties = f"; {whole - decided} are ties, which teach dpo nothing, and are dropped" * (whole > decided)
    stage.say(f"dpo: {len(pairs)} pairs of {len(train)} rankings, each of equal weight{rest}{ties}")


def _longest(pairs: Sequence[PairIds]) -> Any:
    """Tokens of the longer response of each pair with its prompt [N]."""
    return np.array([len(one.prompt) + max(len(one.chosen), len(one.rejected)) for one in pairs], np.int64)


def _policy(setup: Setup, sft: Any) -> PeftModel:
    """The base with the SFT adapter, from which TRL makes a second one, `ref`."""
    model = setup.load_model()
    check_padding(model)
    config, tensors = read_adapter(sft)
    config.inference_mode, config.lora_dropout = False, 0.0  # ratios need the same network twice
    adapted = PeftModel(model, config, adapter_name="default")
    load_into(parameters_of(adapted, "default"), tensors, str(sft))
    return adapted


class _Trainer(ResumableTrainer, DPOTrainer):
    """TRL's trainer with our checkpoints, on pairs that are token ids already."""

    def __init__(self, *, held_out: Sequence[PairIds], pad_id: int, **trainer: Any) -> None:
        self._held_out, self._collate = held_out, DataCollatorForPreference(pad_id)
        super().__init__(data_collator=self._collate, **trainer)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss of the held-out pairs, and the share in which the policy's reward puts them in order.

        Every process goes through all of them: TRL's loss gathers its metrics.
        """
        self.control.should_evaluate = False
        size, sums, model = self.args.per_device_train_batch_size, [0.0, 0.0], self.model
        model.eval()
        with torch.no_grad():
            for start in range(0, len(self._held_out), size):
                part = self._held_out[start : start + size]
                loss = self.compute_loss(model, self._prepare_inputs(self._collate(_rows(part))))
                right = self._metrics["eval"]["rewards/accuracies"][-1]
                sums = [sums[0] + float(loss) * len(part), sums[1] + right * len(part)]
        self._metrics["eval"].clear()
        if self._held_out:
            count = len(self._held_out)
            self.results = {"eval/loss": sums[0] / count, "eval/accuracy": sums[1] / count}
            self.stage.metrics.append(self.state.global_step, self.results)
        return self.results


def _rows(pairs: Sequence[PairIds]) -> list[dict[str, list[int]]]:
    return [
        {"prompt_ids": one.prompt, "chosen_ids": one.chosen, "rejected_ids": one.rejected} for one in pairs
    ]


def _on_disk(pairs: Sequence[PairIds]) -> Dataset:
    """The pairs in a temporary file that is mapped into memory."""
    ids = pa.list_(pa.int32())
    schema = pa.schema([(name, ids) for name in ("prompt_ids", "chosen_ids", "rejected_ids")])

    def rows() -> Iterator[PairIds]:
        yield from pairs

    return Dataset(pa.Table.from_batches(kept(None, "", schema, rows), schema), fingerprint="rows")


def _trainer(
    recipe: Recipe,
    setup: Setup,
    stage: StageRun,
    model: PeftModel,
    pairs: Sequence[PairIds],
    held_out: Sequence[PairIds],
    steps: int,
) -> _Trainer:
    cfg, seed, tokenizer = recipe.dpo, recipe.run.seed, setup.base.tokenizer
    microbatch, accumulation = microbatches(cfg, setup.accel.num_processes, "dpo", "pairs")
    rows = step_rows(seed, "dpo", 0, steps * cfg.batch_size, len(pairs))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(setup.base.pad_id)
    work = work_of(model.get_base_model(), "default")

    def draw(step: int, part: int) -> int:
        return generator(seed, "dpo", step, part, setup.accel.process_index).initial_seed()

    def computed(inputs: dict[str, Any]) -> Computed:
        lengths: Tensor = inputs["attention_mask"].sum(1)
        return of_pairs(work, lengths.tolist(), int(inputs["completion_mask"].sum()))

    trainer = _Trainer(
        stage=stage,
        draw=draw,
        computed=computed,
        metrics=_METRICS,
        evaluate_every=cfg.evaluate_every,
        held_out=held_out,
        pad_id=setup.base.pad_id,
        model=model,
        processing_class=tokenizer,
        train_dataset=_on_disk(pairs).select(rows),
        args=trl_arguments(
            DPOConfig,
            recipe,
            cfg,
            stage,
            setup.accel,
            steps,
            per_device_train_batch_size=microbatch,
            gradient_accumulation_steps=accumulation,
            router_aux_loss_coef=0.0,
            beta=cfg.beta,
            loss_type=["sigmoid"],
        ),
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name and f".{REFERENCE}." not in name)
    multiply_in_input_dtype(trainer.model)
    model.eval()
    check_trainer(model, model.get_base_model())
    return trainer
