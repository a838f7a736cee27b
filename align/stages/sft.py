"""SFT: a LoRA adapter learns from demonstrations, by TRL's SFTTrainer.

The loss of a step is the mean negative log likelihood, in nats, of all response tokens of its batch,
each response's EOS included and prompts left out; microbatches and processes add up to it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from align.data.store import kept
from align.data.tokenize import Encoded, Encodings, encode_demonstrations
from align.errors import UserError
from align.models.adapter_products import multiply_in_input_dtype
from align.models.adapters import parameters_of, read_adapter, save_adapter
from align.models.experts import balancing_weight
from align.models.forward import check_padding
from align.models.logits import check_trainer, last_step
from align.models.lora import lora_config, without_adapter
from align.models.saved_modules import let_train, saved_paths
from align.models.suitable import check_base
from align.models.text_part import text_decoder
from align.plan.flops import work_of
from align.plan.lengths import lengths_of_demonstrations
from align.plan.shares import microbatches
from align.plan.speed import Computed, of_demonstrations
from align.processes.distributed import more_elsewhere, share, total
from align.recipe.sections import Recipe
from align.records import Demonstration
from align.run.checkpoint import load_into
from align.run.folder import StageRun
from align.seeds import generator, step_rows
from align.stages.frame import Inputs, Setup
from align.stages.trainer import ResumableTrainer, trl_arguments

TokenRow = dict[str, list[int]]  # input_ids and labels of one demonstration, equally long
# Counts nothing: for a process that goes along with another one's batch (models/passes.py).
_EMPTY: TokenRow = {"input_ids": [0, 0], "labels": [-100, -100]}

_METRICS = {
    "loss": "train/loss",
    "mean_token_accuracy": "train/token_accuracy",
    "entropy": "train/entropy",
    "grad_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
}


def run(recipe: Recipe, restart: bool = False, anyway: bool = False) -> None:
    """Train the SFT adapter that the recipe describes, or go on from its newest checkpoint.

    anyway: also where memory will not do. Raises UserError where the recipe, the base or the data must be
    changed first.
    """
    cfg, inputs = recipe.sft, Inputs(recipe, "sft", restart, anyway=anyway)
    check_base(inputs.setup.base, recipe.lora)
    microbatches(cfg, inputs.setup.accel.num_processes)
    start = inputs.parent("sft", "sft", cfg.start) if cfg.start else None
    inputs.read(Demonstration)
    with inputs.open() as stage:
        if stage.finished:
            return
        train, held_out = inputs.encode(stage, Demonstration, encode_demonstrations, cfg.max_length)
        steps = cfg.steps or -(-cfg.epochs * len(train) // cfg.batch_size)
        recipe = inputs.settled(stage, lengths_of_demonstrations(recipe, train.lengths))
        trainer = _trainer(recipe, inputs.setup, stage, train, _rows(held_out), steps)
        if start is not None:
            load_into(parameters_of(trainer.model, "default"), read_adapter(start)[1], str(start))
            stage.say(f"sft goes on from the adapter of {cfg.start}")
        _tell(trainer, recipe, stage)
        trainer.go()

        def write(folder: Path) -> None:
            save_adapter(trainer.model, "default", folder)
            inputs.setup.template.save_tokenizer(folder)

        stage.finish(write, trainer.results)
        found = "".join(f", {name} {value:.4g}" for name, value in trainer.results.items())
        stage.say(f"sft has finished after {steps} steps{found}; its adapter is in {stage.final}")


def _tell(trainer: _Trainer, recipe: Recipe, stage: StageRun) -> None:
    """Say what of the base gets no adapter though all of it was asked for, and what the loss is made of."""
    if recipe.lora.targets == "all-linear" and (left := without_adapter(trainer.model)):
        names = ", ".join(f"{name} (in {count} layers)" for name, count in left.items())
        stage.say(f"lora.targets: all-linear leaves out what cannot have an adapter here: {names}")
    if trainer.aux_loss_enabled:
        stage.say(
            f"train/loss has {trainer.router_aux_loss_coef:g} times the load-balancing loss of the experts "
            "in it, as the base's config.json says (router_aux_loss_coef); eval/loss has not"
        )


class _Trainer(ResumableTrainer, SFTTrainer):
    """TRL's trainer, with our checkpoints and an evaluation that weighs every response token alike."""

    def __init__(
        self, *, held_out: list[TokenRow], pad_id: int, shard_group: Accelerator | None, **trainer: Any
    ) -> None:
        super().__init__(**trainer)
        self._pad_id, self._shard_group = pad_id, shard_group
        # Neighbours of like length waste no padding; each process takes its share.
        by_length = sorted(held_out, key=lambda row: len(row["input_ids"]))
        self._held_out = share(by_length, self.accelerator)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        """DDP's for the adapter, which is all that trains; a sharded base's frozen weights are left out."""
        if self._shard_group is None or not training:
            wrapped: nn.Module = super()._wrap_model(model, training, dataloader)
            return wrapped
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
        return DistributedDataParallel(model)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean negative log likelihood of a held-out response token in nats, and its exponential.

        (Trainer's own would average the means of batches that hold different numbers of tokens.)
        """
        self.control.should_evaluate = False
        collate = DataCollatorForLanguageModeling(self._pad_id)
        size = self.args.per_device_train_batch_size
        found = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # nats, tokens
        self.model.eval()
        batches = [self._held_out[i : i + size] for i in range(0, len(self._held_out), size)]
        batches += [[_EMPTY]] * more_elsewhere(len(batches), self._shard_group)
        with torch.no_grad():
            for rows in batches:
                outputs = self.model(**self._prepare_inputs(collate(rows)), fused_lm_head=True)
                found += torch.stack([-outputs.log_probs.double().sum(), outputs.label_mask.double().sum()])
        nats, tokens = total(found, self.accelerator).tolist()
        if tokens:
            loss = nats / tokens
            self.results = {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}
            self.stage.metrics.append(self.state.global_step, self.results)
        return self.results


def _trainer(
    recipe: Recipe,
    setup: Setup,
    stage: StageRun,
    train: Encodings[Encoded],
    held_out: list[TokenRow],
    steps: int,
) -> _Trainer:
    """TRL's trainer on the base; raises UserError where padding or packing does not go with it."""
    cfg, seed = recipe.sft, recipe.run.seed
    rows = step_rows(seed, "sft", 0, steps * cfg.batch_size, len(train))  # of step 0, of step 1, …
    microbatch, accumulation = microbatches(cfg, setup.accel.num_processes)
    model, tokenizer = setup.load_model(), setup.base.tokenizer
    check_padding(model)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(setup.base.pad_id)  # what TRL pads with
    if cfg.packing:
        _check_packing(model, _rows([train[i] for i in train.lengths.argsort()[:2].tolist()]))

    def draw(step: int, part: int) -> int:
        return generator(seed, "sft", "dropout", step, part, setup.accel.process_index).initial_seed()

    def computed(inputs: dict[str, Any]) -> Computed:
        learned = int((inputs["labels"] != -100).sum())
        return of_demonstrations(work, _lengths(inputs), learned)

    trainer = _Trainer(
        stage=stage,
        draw=draw,
        computed=computed,
        metrics=_METRICS,
        evaluate_every=cfg.evaluate_every,
        held_out=held_out,
        pad_id=setup.base.pad_id,
        shard_group=setup.shard_group,
        model=model,
        peft_config=lora_config(recipe.lora, model),
        processing_class=tokenizer,
        train_dataset=_on_disk(train).select(rows),
        args=trl_arguments(
            SFTConfig,
            recipe,
            cfg,
            stage,
            setup.accel,
            steps,
            per_device_train_batch_size=microbatch,
            gradient_accumulation_steps=accumulation,
            router_aux_loss_coef=balancing_weight(model.config),
            # The rows have their labels; packed, a microbatch is one row without padding.
            dataset_kwargs={"skip_prepare_dataset": True},
            padding_free=cfg.packing,
        ),
    )
    if setup.base.spec.quantize:  # then TRL makes adapters bfloat16, too coarse for small steps
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    multiply_in_input_dtype(trainer.model)
    let_train(trainer.model, "default", saved_paths(recipe.lora.modules_to_save or (), model))
    _check_logits(trainer.model)
    work = work_of(trainer.model.get_base_model(), "default")
    return trainer


def _lengths(inputs: dict[str, Any]) -> list[int]:
    """Of the demonstrations in a microbatch: of each row, or where positions begin anew in a packed one."""
    if (positions := inputs.get("position_ids")) is not None:
        starts = (positions[0] == 0).nonzero()[:, 0].tolist()
        return [end - start for start, end in zip(starts, [*starts[1:], positions.shape[1]], strict=True)]
    found: list[int] = inputs["attention_mask"].sum(1).tolist()
    return found


def _check_logits(model: Any) -> None:
    """Raise UserError unless the stages' log probabilities are those of the model's own logits."""
    base = model.get_base_model()
    model.eval()
    last_step(base, text_decoder(base))
    check_trainer(model, base)


def _rows(demonstrations: Sequence[Encoded]) -> list[TokenRow]:
    """Each demonstration as ids and labels; -100 marks what is not learned.

    Labels are made here from lengths, never from token ids: where a tokenizer pads with EOS, a mask
    made from ids would hide EOS too, and the policy would never learn to stop.
    """
    return [
        {"input_ids": part.prompt + response, "labels": [-100] * len(part.prompt) + response}
        for part in demonstrations
        for response in part.responses
    ]


def _on_disk(demonstrations: Sequence[Encoded]) -> Dataset:
    """The rows in a temporary file that is mapped into memory: they may be more than memory holds."""
    ids = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", ids), ("labels", ids)])

    def rows() -> Iterator[tuple[list[int], list[int]]]:
        for part in demonstrations:
            (row,) = _rows([part])
            yield row["input_ids"], row["labels"]

    table = pa.Table.from_batches(kept(None, "", schema, rows), schema)
    return Dataset(table, fingerprint="rows")  # its own way to a name would read the whole table


def _check_packing(model: PreTrainedModel, rows: list[TokenRow]) -> None:
    """Raise UserError unless demonstrations that share a row are blind to each other on this base.

    Packed rows rely on the model restarting its attention wherever positions restart, and not every
    architecture or attention does. So the first of two is changed: the second must not notice.
    """
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    shortest = sorted((row["input_ids"] for row in rows), key=len)
    first, second = shortest[0], shortest[min(1, len(shortest) - 1)]

    def logits_of_second(before: list[int]) -> torch.Tensor:
        batch = collate([{"input_ids": before}, {"input_ids": second}])
        del batch["labels"]
        inputs = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits[0, len(before) :].float()

    changed = [(token + 1) % model.config.get_text_config().vocab_size for token in first]
    if not torch.allclose(logits_of_second(first), logits_of_second(changed), rtol=0.0, atol=1e-5):
        raise UserError(
            "sft.packing: on this base and attention, packed demonstrations would see each other. "
            "Set sft.packing: false, or choose another base.attention"
        )
