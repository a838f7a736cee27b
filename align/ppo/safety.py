"""What steers PPO from one iteration to the next: the KL coefficient, the KL limit, and bad numbers.

Everything here is the same on every process; what lasts is in the context's state, and so in checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from align.errors import AlignError
from align.objectives.kl import adaptive_coef, k1
from align.objectives.masked import masked_sum
from align.ppo.roles import Context, save
from align.ppo.rollout import Rollout
from align.processes import distributed
from align.run import checkpoint
from align.run.folder import BAD_STEPS, StageRun, share_object

BAD_IN_A_ROW = 3  # as many steps that could not be applied end the stage


def update_kl_coef(context: Context, stage: StageRun, rollout: Rollout, iteration: int) -> float:
    """The KL coefficient of this rollout's updates; the state then holds the next rollout's.

    Raises AlignError where the mean KL of the rollout is above ppo.kl_limit.
    """
    cfg, coef = context.cfg, context.state.kl_coef
    per_response = masked_sum(k1(rollout.old_logprobs, rollout.ref_logprobs), rollout.response_mask, dim=1)
    sums = torch.stack([per_response.sum(), torch.ones_like(per_response).sum()]).double()
    total, rows = distributed.total(sums, context.accel).tolist()
    check_limit(context, stage, total / rows, iteration)
    if cfg.kl_target is not None and math.isfinite(total):
        context.state.kl_coef = adaptive_coef(coef, total / rows, cfg.kl_target, int(rows), cfg.kl_horizon)
    return coef


def is_bad(context: Context, stage: StageRun, rollout: Rollout, rewards: Tensor, iteration: int) -> bool:
    """Whether a number of the rollout is not finite on any process; then it is written down."""
    mask = rollout.response_mask
    numbers = {
        "score": rollout.scores[:, None],
        "log probability": rollout.old_logprobs.masked_fill(~mask, 0.0),
        "reference log probability": rollout.ref_logprobs.masked_fill(~mask, 0.0),
        "reward": rewards.masked_fill(~mask, 0.0),
    }
    if rollout.old_values is not None:
        numbers["value"] = rollout.old_values.masked_fill(~mask, 0.0)
    bad = {name: ~x.isfinite().all(1) for name, x in numbers.items()}
    sums = distributed.total(torch.stack([x.sum() for x in bad.values()]), context.accel).tolist()
    counts = {name: count for name, count in zip(bad, sums, strict=True) if count}
    if counts:
        rows = torch.stack(list(bad.values())).any(0).nonzero()[:, 0].tolist()
        what = [f"the {name} of {count} responses is not finite" for name, count in counts.items()]
        what += _from_sources(context, rollout)
        broken = not counts.keys().isdisjoint(("log probability", "value"))
        not_applied(context, stage, rollout, rows, iteration, what, broken)
    return bool(counts)


def _from_sources(context: Context, rollout: Rollout) -> list[str]:
    """Which of the recipe's sources of rewards gave scores that are not finite, on any process."""
    if context.cfg.rewards is None:
        return []
    bad = torch.stack([(~said.isfinite()).sum() for said in rollout.parts.values()])
    counts = distributed.total(bad, context.accel).tolist()
    return [
        f"ppo.rewards: {name} gave {count} of these scores"
        for name, count in zip(rollout.parts, counts, strict=True)
        if count
    ]


def check_limit(context: Context, stage: StageRun, kl: float, iteration: int) -> None:
    """Raise AlignError where a rollout's mean KL, in nats a response, is above ppo.kl_limit."""
    limit = context.cfg.kl_limit
    if limit is None or not kl > limit:
        return
    keep(context, stage, iteration)
    raise AlignError(
        f"ppo stopped after {iteration} iterations: the mean KL to the reference is {kl:.2f} nats a "
        f"response, above ppo.kl_limit ({limit:g}). {_last_good(stage)} To go on from there, run the same "
        "command with a higher ppo.kl_limit; to hold the policy closer, raise ppo.kl_coef, or set "
        "ppo.kl_target, and add --restart"
    )


def keep(context: Context, stage: StageRun, iteration: int) -> None:
    """A checkpoint of this iteration, where there is none yet, before the stage stops."""
    if not share_object((stage.checkpoints / checkpoint.name(iteration)).exists(), context.accel):
        save(context, stage, iteration)


def bad_numbers(values: dict[str, float]) -> list[str]:
    """What is not finite: a "name is nan" each."""
    return [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]


def not_applied(
    context: Context,
    stage: StageRun,
    rollout: Rollout,
    rows: Sequence[int],
    iteration: int,
    what: Sequence[str],
    broken: bool = False,
) -> None:
    """Write down a step that was not applied; the third in a row raises AlignError.

    rows: this process's rows of the rollout that were in the batch. broken: the weights themselves give
    such numbers, so a checkpoint of them is not good. Every process calls it together.
    """
    context.state.bad_in_a_row += 1
    reason = ", ".join(what)
    tokenizer, accel = context.setup.base.tokenizer, context.accel
    mine = []
    for row in rows:
        one = rollout.sampled[row]
        texts = {"prompt": tokenizer.decode(one.prompt), "response": tokenizer.decode(one.response)}
        mine.append({"row": row * accel.num_processes + accel.process_index, **texts})
    batch = sorted(distributed.gather_lists(mine, accel), key=lambda one: int(one["row"]))
    path = stage.folder / BAD_STEPS
    stage.bad_steps.write({"iteration": iteration + 1, "what": list(what), "rows": batch})
    stage.say(f"iteration {iteration + 1}: {reason}; this step is not applied ({path} has its batch)")
    if context.state.bad_in_a_row >= BAD_IN_A_ROW:
        before = iteration + 1 - BAD_IN_A_ROW if broken else None
        raise AlignError(
            f"ppo: {BAD_IN_A_ROW} steps in a row could not be applied, the last because {reason}; {path} "
            f"shows what was in them. {_last_good(stage, before)} "
            + (
                "Lower ppo.learning_rate and add --restart"
                if broken
                else "Mend the reward where it is what is not finite, and go on with the same command, with "
                "--accept-changed reward where a function was changed; else lower ppo.learning_rate and add "
                "--restart"
            )
        )


def check_outcome(context: Context, stage: StageRun, results: dict[str, float]) -> None:
    """Raise AlignError where the policy's held-out answers show that its weights are broken, or have scores
    of the recipe's own sources that are not finite."""
    if what := bad_numbers({name: results[name] for name in ("eval/score", "eval/kl") if name in results}):
        if context.cfg.rewards is not None and math.isfinite(results["eval/kl"]):
            raise AlignError(
                f"ppo: after the last iteration {what[0]}: a source of ppo.rewards gave a held-out answer a "
                f"score that is not finite, so final/ is not written. {_last_good(stage)} Mend the "
                "reward and go on with the same command, with --accept-changed reward where a function was "
                "changed"
            )
        before = context.cfg.iterations - context.state.bad_in_a_row
        raise AlignError(
            f"ppo: after the last iteration {', '.join(what)}: the policy is broken, so final/ is not "
            f"written. {_last_good(stage, before)} Lower ppo.learning_rate and add --restart"
        )


def _last_good(stage: StageRun, before: int | None = None) -> str:
    """Which checkpoint can be relied on; before: only those of fewer iterations."""
    found = sorted(stage.checkpoints.glob("step-*")) if stage.checkpoints.is_dir() else []
    good = [path for path in found if before is None or path.name < checkpoint.name(before)]
    if not good:
        return "There is no good checkpoint." if found else "There is no checkpoint yet."
    return f"The last good checkpoint is {good[-1]}."
