"""The reward model: LoRA from the SFT adapter, a scalar head, Bradley-Terry over whole rankings.

What is unusual here: a ranking stays whole, each of its K responses goes through the model once, and
all its comparisons are one term of the loss. Rows of a step are a function of (seed, step), so the
same line again goes on exactly. At the end the scores are centred, saved, loaded on a fresh base and
compared: a reward model that does not come back the same is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.tokenize import encode_rankings
from align.errors import AlignError, UserError
from align.evaluation.length_bias import document, length_metrics, shown
from align.evaluation.reward import (
    Evaluation,
    attach_scores,
    evaluate,
    evaluate_quickly,
    plain,
)
from align.models.adapters import save_score
from align.models.ensemble import add_reward
from align.models.forward import Forward
from align.models.optimizer import apply, clip, learning_rate
from align.models.probes import attend_in_blocks, share_prompts
from align.models.roles import Roles
from align.models.scoring import score_rankings
from align.objectives.bradley_terry import has_pair
from align.plan.flops import work_of
from align.plan.lengths import lengths_of_rankings
from align.plan.speed import of_rankings, peak_memory, speed
from align.processes import distributed
from align.recipe.sections import RM, Recipe
from align.records import Demonstration, Ranking
from align.run.clock import Clock
from align.run.energy import on_this_machine
from align.run.files import to_json, write_text
from align.run.folder import StageRun
from align.run.memory import itemised
from align.seeds import generator, step_rows
from align.stages.centring import centred, centring_rows, compared_rows
from align.stages.frame import Inputs, Setup, source
from align.stages.labeler_weights import labeler_weights, write_weights
from align.stages.length_debias import add_length_head, fit_curve, odin_gradients, reports
from align.stages.members import (
    from_checkpoint,
    judge,
    members_of,
    optimizers_of,
    put_together,
    save_members,
    to_checkpoint,
    trained,
)
from align.stages.ranking_gradients import gradients
from align.stages.ranking_rows import EncodedRows, RankingRows, columns
from align.stages.rm_words import summary, write_misjudged
from align.stats.rankings import fit_length_model, length_wins

_PROBES = 16  # rankings scored before saving and after loading
_RELOAD_TOLERANCE = 1e-5  # relative; the same numbers up to the batch's padding


def run(recipe: Recipe, restart: bool = False, anyway: bool = False) -> None:
    """Train the reward model that the recipe describes, or go on from its newest checkpoint.

    anyway: also where memory will not do. Raises MissingStage where sft has not finished, UserError where
    something must be changed first.
    """
    cfg, inputs = recipe.rm, Inputs(recipe, "rm", restart, anyway=anyway)
    setup, accel = inputs.setup, inputs.setup.accel
    sft = inputs.parent("sft", "sft", cfg.sft)
    weights = labeler_weights(inputs, source(recipe, "rankings", "rm"), inputs.read(Ranking))
    demonstrations = inputs.read(Demonstration).train if recipe.data.demonstrations else None
    distributed.check_divisible(cfg.batch_size, "rm.batch_size", accel)
    with inputs.open() as stage:
        if stage.finished:
            return
        encoded = inputs.encode(stage, Ranking, encode_rankings, cfg.max_length)
        train, held_out = map(EncodedRows, encoded)
        if weights is not None:
            write_weights(weights, stage)
            train = EncodedRows(encoded[0], weights.of)
        if not any(has_pair(row.ranks, cfg.ties) for row in train):
            raise UserError(
                "data.rankings: no training ranking decides any comparison; all responses are tied"
            )
        zero = centring_rows(demonstrations, train, recipe, setup)
        recipe = inputs.settled(stage, lengths_of_rankings(recipe, encoded[0]))
        checkpointing = recipe.rm.gradient_checkpointing is True
        forward = _model(setup, sft, recipe.run.seed, cfg, checkpointing)
        longest = max(cfg.max_length, recipe.sft.max_length)  # demonstrations too are scored
        if cfg.share_prompt:
            share_prompts(forward, "reward", longest)
            attend_in_blocks(forward, "reward", int(encoded[0].totals.max()))
        for remark in forward.remarks():
            stage.say(f"rm: {remark}")
        steps = cfg.steps or -(-cfg.epochs * len(train) // cfg.batch_size)
        _train(recipe, forward, train, held_out, steps, stage)
        probes = (held_out or train)[:_PROBES]
        every = _settle_scores(stage, forward, train, zero, probes, recipe, setup)
        before = score_rankings(forward, judge(cfg), [row.encoded for row in probes], cfg.microbatch_tokens)
        scores = _held_out_scores(forward, held_out, cfg, accel)
        scored = attach_scores(*columns(held_out), scores, encoded[1].records)
        lengths = ((row.ranks, [len(response) for response in row.encoded.responses]) for row in train)
        evaluation = evaluate(scored, fit_length_model(length_wins(lengths)), recipe.run.seed)
        results = evaluation.metrics()
        results |= {f"score/{name}": every[0][name] for name in ("shift", "std", "centring_error")}
        length = reports(forward, scored, held_out, recipe, accel)
        results |= length_metrics(*length)
        stage.metrics.append(steps, results)
        write_misjudged(stage, encoded[1].records, scored, steps)
        proof = partial(_prove_reload, forward, probes, before, cfg)
        more = {"score": plain(every[0]), "length_bias": document(cfg.length_debias, *length)}
        _finish(stage, setup, forward, evaluation, more, every, cfg, results, proof)
        if held_out:
            stage.say(f"rm: {shown(*length)}")


def _settle_scores(
    stage: StageRun,
    forward: Forward,
    train: RankingRows,
    zero: RankingRows,
    probes: RankingRows,
    recipe: Recipe,
    setup: Setup,
) -> list[dict[str, Any]]:
    """Give every member's scores their zero, and take length off where the recipe says so.

    Returns what is known of each member's scores.
    """
    cfg, found = recipe.rm, list[dict[str, Any]]()
    rows = "demonstrations" if recipe.data.demonstrations else "best-ranked responses"
    compared = compared_rows(train, recipe)
    for member in members_of(cfg, recipe.run.seed):
        if cfg.length_debias in ("linear", "lowess"):
            stage.say(f"rm: {fit_curve(forward, train, recipe, setup.accel, member.role)}")
        score = centred(forward, zero, compared, probes, cfg, setup, member.role)
        found.append({**score, "centred_on": rows})
    put_together(forward.roles, cfg, [score["std"] for score in found])
    return found


def _finish(
    stage: StageRun,
    setup: Setup,
    forward: Forward,
    evaluation: Evaluation,
    more: dict[str, Any],
    every: Sequence[dict[str, Any]],
    cfg: RM,
    results: dict[str, float],
    proof: Callable[[Path], None],
) -> None:
    """Write final/, whose scores `proof` compares with the trained model's, and evaluation.json.

    more: what that says beside the evaluation, of `score` and of length. every: what is known of each
    member's scores.
    """

    def write(folder: Path) -> None:
        known = {"temperature": evaluation.calibration.temperature}
        for its, score in zip(save_members(forward.roles, cfg, folder), every, strict=True):
            save_score(plain({**score, **known}), its)
        setup.template.save_tokenizer(folder)

    def prove(folder: Path) -> None:
        if stage.main or setup.shard_group:  # a sharded model scores only with all its parts
            proof(folder)

    if stage.main:
        write_text(stage.folder / "evaluation.json", to_json(evaluation.document() | more))
    stage.finish(write, {name: x for name, x in results.items() if math.isfinite(x)}, prove)
    stage.say(summary(stage, evaluation))


def _train(
    recipe: Recipe, forward: Forward, train: RankingRows, held_out: RankingRows, steps: int, stage: StageRun
) -> None:
    """Optimizer steps from the newest checkpoint on."""
    cfg, seed, accel = recipe.rm, recipe.run.seed, stage.accel
    roles, members = forward.roles, members_of(cfg, seed)
    optimizers = optimizers_of(roles, members, cfg, accel)
    work, clock = work_of(roles.base, roles.adapter_of("reward")), Clock()
    energy = on_this_machine()
    found = stage.newest()
    done = from_checkpoint(roles, members, optimizers, found) if found is not None else 0

    def save(done: int) -> None:
        stage.save(done, to_checkpoint(roles, members, optimizers), {})

    with (
        stage.steps(steps, done) as bar,
        itemised(stage, lambda: roles.held(optimizers)),
    ):
        for step in range(done, steps):
            keep = partial(save, step)
            stage.stop_if_told(step, keep)
            rows = [train[i] for i in step_rows(seed, "rm", step, cfg.batch_size, len(train))]
            rate = learning_rate(cfg.learning_rate, step, steps, cfg.warmup, cfg.schedule)
            part = Clock()
            odin: dict[str, float] = {}
            with stage.unchanged(step, keep):
                if cfg.length_debias == "odin":
                    sums, odin = odin_gradients(forward, rows, cfg, accel)
                else:
                    sums = gradients(forward, rows, cfg, accel, members)
            metrics = _update_all(forward, optimizers, sums, rate, cfg, accel) | odin
            encoded = (row.encoded for row in rows)
            split = bool(forward.split)
            computed = of_rankings(work, encoded, forward.share_prompt, cfg.members, split)
            timed = speed(computed, part("train"), accel.num_processes, accel.device) | part.metrics()
            last = step + 1 == steps
            if cfg.evaluate_every and (step + 1) % cfg.evaluate_every == 0 and not last:
                scores = _held_out_scores(forward, held_out, cfg, accel)
                metrics |= evaluate_quickly(attach_scores(*columns(held_out), scores), seed).metrics()
            timed |= clock.other(timed) | peak_memory(accel.device) | energy()
            stage.metrics.append(step + 1, metrics | forward.savings() | timed)
            if (step + 1) % cfg.checkpoint_every == 0 or last:
                save(step + 1)
            bar.advance({"loss": metrics["train/loss"], "accuracy": metrics["train/accuracy"]})


def _update_all(
    forward: Forward,
    optimizers: Mapping[str, torch.optim.Optimizer],
    sums: Tensor,
    rate: float,
    cfg: RM,
    accel: Accelerator,
) -> dict[str, float]:
    """One update of each member by its own sums; metrics are means over members."""
    found = [
        update(forward, optimizer, own, rate, cfg, accel, role)
        for (role, optimizer), own in zip(optimizers.items(), sums, strict=True)
    ]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def update(
    forward: Forward,
    optimizer: torch.optim.Optimizer,
    sums: Tensor,
    rate: float,
    cfg: RM,
    accel: Accelerator,
    role: str = "reward",
) -> dict[str, float]:
    """One update by all processes' gradients, and its metrics; AlignError where a gradient is not finite."""
    norm = clip(trained(forward.roles, role).values(), cfg.max_grad_norm, accel)
    if not math.isfinite(norm):
        raise AlignError(
            f"rm: the gradient is {norm}; lower rm.learning_rate. Nothing was changed by this step"
        )
    apply(optimizer, rate)
    loss_sum, correct, total = distributed.total(sums, accel).tolist()
    return {
        "train/loss": loss_sum,
        "train/accuracy": correct / total if total else float("nan"),
        "train/gradient_norm": norm,
        "train/learning_rate": rate,
    }


def _held_out_scores(forward: Forward, held_out: RankingRows, cfg: RM, accel: Accelerator) -> list[Tensor]:
    """A [K] tensor of scores for each held-out ranking; each process scores its share."""
    mine = [row.encoded for row in distributed.share(held_out, accel)]
    scores = score_rankings(forward, judge(cfg), mine, cfg.microbatch_tokens)
    return distributed.gather_lists(scores, accel)


def _prove_reload(
    forward: Forward, probes: RankingRows, before: Sequence[Tensor], cfg: RM, folder: Path
) -> None:
    """Load what was saved as a role of its own and score the probes again; AlignError unless nothing changed.

    On the base that is there: a second one might not find room beside it.
    """
    add_reward(forward.roles, "saved", folder)
    after = score_rankings(forward, "saved", [row.encoded for row in probes], cfg.microbatch_tokens)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if not torch.allclose(old, new, rtol=_RELOAD_TOLERANCE, atol=_RELOAD_TOLERANCE):
            raise AlignError(
                f"the saved reward model does not score as the trained one: probe {number} had "
                f"{old.tolist()} and has {new.tolist()} after loading. The last checkpoint is kept"
            )


def _model(setup: Setup, adapter: Path, seed: int, cfg: RM, checkpointing: bool) -> Forward:
    """A fresh base with the reward role, its head drawn from the seed."""
    roles = Roles(setup.load_model(), setup.shard_group)
    for member in members_of(cfg, seed):
        roles.add(member.role, adapter, trains=True)
        names = ("head", member.number) if member.number else ("head",)
        roles.add_head(member.role, generator(seed, "rm", *names), std=cfg.head_std)
    put_together(roles, cfg)
    if cfg.length_debias == "odin":
        add_length_head(roles, seed, cfg.head_std)
    return Forward(roles, logits=False, gradient_checkpointing=checkpointing)
