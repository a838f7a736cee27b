"""What PPO tells of itself: samples, held-out answers, the guard, warnings, and the best iteration."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from rich.text import Text

from align.errors import AlignError
from align.evaluation.policy import Answered, Answers, compare, respond, summary
from align.models.roles import tensors_of
from align.models.scoring import score_states
from align.objectives.masked import masked_sum
from align.ppo.advantages import importance
from align.ppo.roles import Context
from align.ppo.rollout import Rollout
from align.processes import distributed
from align.run import checkpoint
from align.run.checkpoint import load_into
from align.run.folder import StageRun
from align.sampling.engines import sampling_params
from align.sampling.params import Draws, Sampled
from align.stats.overoptimisation import WINDOW, overoptimised
from align.text import clean

_SAMPLES = 4  # rows of samples.jsonl an iteration
_SHOWN = 240  # characters of a text in the console's table
_BEST = "best"  # beside the checkpoints, where their pruning does not reach


@dataclass
class HeldOut:
    """The held-out prompts; the reference answers them once, since its answers stay the same."""

    context: Context
    prompts: Sequence[list[int]]
    _reference: Answers | None = None

    def answered(self) -> list[Answered]:
        """Every prompt, answered by reference and policy."""
        if self._reference is None:
            self._reference = self._respond("reference")
        setup = self.context.setup
        return compare(
            self._reference,
            self._respond("policy"),
            template=setup.template,
            accel=setup.accel,
        )

    def _respond(self, role: str) -> Answers:
        context = self.context
        return respond(
            context.engine,
            context.forward,
            role,
            self.prompts,
            context.cfg,
            context.rewards,
            context.setup.base,
            context.setup.template,
            seed=context.seed,
            accel=context.accel,
        )


def guard_metrics(context: Context, rollout: Rollout) -> dict[str, float]:
    """The rollout's mean score by the second reward model, over all processes."""
    if context.cfg.guard is None:
        return {}
    scores = score_states(context.forward, "guard", rollout.prefixes, context.cfg.microbatch_tokens).double()
    sums = torch.stack([scores.sum(), torch.ones_like(scores).sum()]).to(context.accel.device)
    total, count = distributed.total(sums, context.accel).tolist()
    return {"guard/score": total / count}


def engine_metrics(context: Context, stage: StageRun, rollout: Rollout) -> dict[str, float]:
    """How far the engine that sampled and the trainer are apart; warns once a run.

    Raises AlignError beyond ppo.engine_gap_stop: what follows would learn from other probabilities
    than those that were sampled from.
    """
    cfg, mask = context.cfg, rollout.response_mask
    gaps = (rollout.engine_logprobs - rollout.old_logprobs).abs()
    sums = torch.stack([masked_sum(gaps, mask).double(), mask.sum().double()])
    mismatch, count = distributed.total(sums, context.accel).tolist()
    gap = mismatch / count
    said = (
        f"the engine that samples and the trainer disagree by {gap:.3g} nats a token "
        "(engine/logprob_gap): their weights, precision or temperature differ"
    )
    if gap > cfg.engine_gap_stop:
        raise AlignError(
            f"ppo: {said}. That is over ppo.engine_gap_stop ({cfg.engine_gap_stop:g}), so this rollout was "
            f"not trained on; the newest checkpoint in {stage.checkpoints} is as it was"
        )
    if gap > cfg.engine_gap_warn:
        cure = "" if cfg.importance_cap else "; ppo.importance_cap: 2 corrects for it"
        _warn(context, stage, "engine", f"warning: {said}{cure}")
    metrics = {"engine/logprob_gap": gap}
    if cfg.importance_cap:
        weights = importance(cfg, rollout)
        capped = weights >= cfg.importance_cap  # at padding they are 0
        found = torch.stack([masked_sum(weights, mask).double(), capped.sum().double()])
        mean, share = (distributed.total(found, context.accel) / count).tolist()
        metrics |= {"engine/weight": mean, "engine/capped": share}
    return metrics


def warn(context: Context, stage: StageRun, iteration: int, metrics: dict[str, float]) -> None:
    """Warn, once a run each, where no response ends, and where the guard falls and the reward does not."""
    if metrics.get("response/eos") == 0:
        _warn(
            context,
            stage,
            "eos",
            f"warning: no response of iteration {iteration} ended within ppo.max_response_tokens "
            f"({context.cfg.max_response_tokens}), so all are judged cut off and none shows what ending is "
            "worth. Raise it, or let sft see demonstrations that are shorter",
        )
    scores = (metrics.get("guard/score", math.nan), metrics["reward/score"])
    if not all(map(math.isfinite, scores)):
        return
    watched = context.watched
    watched.guard.append(scores[0])
    watched.training.append(scores[1])
    if overoptimised(watched.training, watched.guard):
        _warn(
            context,
            stage,
            "guard",
            f"warning: by iteration {iteration} the guard's score (mean of {WINDOW} iterations) has fallen "
            "from its peak and the training reward has not: the policy has begun to exploit the reward "
            "model. Stop here, raise ppo.kl_coef, or take the best iteration (ppo.keep: best)",
        )


def _warn(context: Context, stage: StageRun, about: str, text: str) -> None:
    if about not in context.watched.warned:
        context.watched.warned.append(about)
        stage.say(text)


# The best iteration


def consider(context: Context, stage: StageRun, iteration: int, results: dict[str, float]) -> None:
    """With ppo.keep: best, remember the iteration with the highest held-out score, the guard's if any."""
    if context.cfg.keep != "best" or not math.isfinite(results["eval/kl"]):
        return
    value = results.get("guard/eval_score", results["eval/score"])
    best = context.watched.best
    if not value > (-math.inf if best is None else best[1]):
        return
    context.watched.best = (iteration, value)
    if iteration < context.cfg.iterations and stage.main:
        tensors = {role: tensors_of(context.forward.roles, role) for role in context.trained}
        folder, keep = stage.checkpoints / _BEST, context.cfg.iterations
        checkpoint.save(folder, iteration, tensors, {}, keep, stage.identity)


def prune_best(context: Context, stage: StageRun) -> None:
    """Remove what was best before, now that a checkpoint names the one that is."""
    best = context.watched.best
    if stage.main and best is not None:
        for path in (stage.checkpoints / _BEST).glob("step-*"):
            if path.name != checkpoint.name(best[0]):
                shutil.rmtree(path, ignore_errors=True)


def restore_best(context: Context, stage: StageRun) -> int:
    """Give policy and value the weights of the best iteration; returns which one that is."""
    last, best = context.cfg.iterations, context.watched.best
    if best is None or best[0] == last:
        return last
    found = checkpoint.at(stage.checkpoints / _BEST, best[0], stage.identity)
    for role in context.trained:
        load_into(context.forward.roles.parameters_of(role), found.tensors(role), str(found.path))
    stage.say(
        f"final/ is iteration {best[0]} of {last}: its held-out score was the best of all evaluations, "
        f"{best[1]:.3f}"
    )
    return best[0]


def outcome(
    context: Context, stage: StageRun, held_out: HeldOut, refused: Callable[[], dict[str, float]]
) -> tuple[list[Answered], dict[str, float]]:
    """The held-out answers of what final/ will hold, and their summary; the last policy's go to metrics.

    refused: gives what the policy refuses, as Refusals.measured does.
    """
    answered = held_out.answered()
    results = summary(answered) | refused()
    stage.metrics.append(context.cfg.iterations, results)
    if context.cfg.keep != "best":
        return answered, results
    consider(context, stage, context.cfg.iterations, results)
    kept = restore_best(context, stage)
    if kept != context.cfg.iterations:
        answered = held_out.answered()
        results = summary(answered) | refused()
    return answered, {**results, "eval/kept_iteration": kept}


# Samples


@torch.no_grad()
def write_samples(
    context: Context,
    stage: StageRun,
    rollout: Rollout,
    iteration: int,
) -> None:
    """The rollout's first few responses, as text, with score and KL.

    Every ppo.samples_every iterations the reference answers the same prompts too, and all is shown.
    """
    template, accel, sampled = context.setup.template, context.accel, rollout.sampled
    numbers = distributed.share(range(min(_SAMPLES, len(sampled) * accel.num_processes)), accel)
    kl = masked_sum(rollout.old_logprobs - rollout.ref_logprobs, rollout.response_mask, dim=1)
    show = (iteration + 1) % context.cfg.samples_every == 0
    reference = _reference(context, sampled[: len(numbers)], numbers, iteration) if show else []
    rows: list[dict[str, object]] = []
    for i, one in enumerate(sampled[: len(numbers)]):
        row: dict[str, object] = {
            "prompt": template.prompt_text(one.prompt),
            "response": template.text(one.response),
            "score": float(rollout.scores[i]),
            "kl": float(kl[i]),
        }
        if rollout.disagreement is not None:
            row["disagreement"] = float(rollout.disagreement[i])
        if show:
            row["reference"] = template.text(reference[i].response)
        rows.append(row)
    rows = distributed.gather_lists(rows, accel)
    for row in rows:
        stage.samples.append(iteration + 1, row)
    if show and stage.main:
        show_samples(stage, iteration + 1, rows)
        stage.show(iteration + 1, rows)


def _reference(context: Context, sampled: list[Sampled], numbers: list[int], iteration: int) -> list[Sampled]:
    draws = Draws(context.seed, "ppo samples", iteration, numbers)
    params = sampling_params(context.cfg, context.setup.base)
    return context.engine.sample([one.prompt for one in sampled], draws, params, "reference")


def show_samples(stage: StageRun, iteration: int, rows: Sequence[dict[str, object]]) -> None:
    """A table on a terminal, plain lines elsewhere."""
    if not stage.console.is_terminal:
        for row in rows:
            stage.say(
                f"iteration {iteration}  score {row['score']:.3f}  kl {row['kl']:.2f}  "
                f"{_line(row['prompt'])} → {_line(row['response'])}  (SFT: {_line(row['reference'])})"
            )
        return
    table = Table(title=f"iteration {iteration}", show_lines=True)
    for column in ("prompt", "response", "SFT's response"):
        table.add_column(column, overflow="fold", ratio=1)
    for column in ("score", "KL"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        texts = [Text(_line(row[key])) for key in ("prompt", "response", "reference")]
        table.add_row(*texts, f"{row['score']:.3f}", f"{row['kl']:.2f}")
    stage.console.print(table)


def _line(text: object) -> str:
    """A text as one line that is not endless."""
    return " ".join(str(clean(str(text), _SHOWN)).split())
