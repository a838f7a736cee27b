"""The reference answers the training prompts too, so that ppo.reward_shape can compare with its scores.

A prompt's responses are drawn when it first comes, as a function of (seed, prompt, number), and only
their scores are kept: in checkpoints, so that a run that goes on compares with the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from align.ppo.advantages import worth
from align.ppo.roles import Context
from align.ppo.rollout import Rollout
from align.processes import distributed
from align.rewards.rewards import score_responses, texts_of
from align.sampling.engines import sampling_params
from align.sampling.params import Draws


def announced(context: Context, prompts: int) -> list[str]:
    """What ppo.reward_shape costs, in a line; nothing without it."""
    cfg = context.cfg
    if cfg.reward_shape == "none":
        return []
    each, extra = cfg.reference_responses, cfg.reference_draws(prompts)
    own, known = cfg.iterations * cfg.rollout_batch_size, len(context.references.found) * each
    return [
        f"reward_shape: {cfg.reward_shape}: the SFT policy answers each training prompt too, {each} "
        f"time{'s' * (each > 1)} when it first comes: {extra:,} responses beside the rollouts' {own:,}"
        + (f"; {known:,} of them are there already" if known else "")
    ]


def draw_references(context: Context, prompts: Sequence[list[int]], rows: Sequence[int]) -> None:
    """Score the reference's responses to those of these prompts that have none; all processes together.

    rows: of all processes' rollouts.
    """
    cfg, accel = context.cfg, context.accel
    missing = context.references.missing(rows)
    if not missing:
        return
    asked = [(row, number) for row in missing for number in range(cfg.reference_responses)]
    mine = distributed.share(asked, accel)
    draws = Draws(context.seed, "ppo reference", 0, mine)
    params = sampling_params(cfg, context.setup.base)
    sampled = context.engine.sample([prompts[row] for row, _ in mine], draws, params, "reference")
    its = [row for row, _ in mine]
    texts = texts_of(context.rewards, sampled, prompts, its, context.setup.template) if its else None
    scores = score_responses(context.forward, sampled, context.rewards, texts, cfg.microbatch_tokens)
    found = torch.tensor(distributed.gather_lists(scores.tolist(), accel)).view(len(missing), -1)
    context.references.found |= dict(zip(missing, found, strict=True))


def shape_metrics(context: Context, rollout: Rollout) -> dict[str, float]:
    """Means over all processes' responses of what the shaped scores are, and what they are compared with."""
    if rollout.reference_scores is None:
        return {}
    shaped = worth(context.cfg, rollout, context.score_std).double()
    sums = torch.stack(
        [torch.ones_like(shaped), shaped, shaped.square(), rollout.reference_scores.double().mean(1)]
    ).sum(1)
    rows, total, squares, reference = distributed.total(sums, context.accel).tolist()
    return {
        "reward/shaped": total / rows,
        "reward/shaped_std": max(squares / rows - (total / rows) ** 2, 0.0) ** 0.5,
        "reward/reference": reference / rows,
    }
