"""What PPO does with one rollout: ppo_epochs passes of clipped policy and value updates."""

from __future__ import annotations

import torch
from torch import Tensor

from align.data.batches import generator
from align.errors import AlignError
from align.models.forward import stack
from align.objectives.ppo import policy_loss, value_loss
from align.rollouts.rollout import Rollout
from align.runtime import distributed
from align.runtime.schedule import learning_rate
from align.stages.ppo_roles import TRAINED, Context


def update(
    context: Context, rollout: Rollout, advantages: Tensor, returns: Tensor, iteration: int
) -> dict[str, float]:
    """ppo_epochs passes over the rollout in minibatches drawn over all processes' rows."""
    cfg, accel = context.cfg, context.accel
    lengths = distributed.gather_rows(rollout.response_mask.sum(1), accel)
    mine = {row: local for local, row in enumerate(distributed.share(list(range(len(lengths))), accel))}
    rates = {
        role: learning_rate(peak, iteration, cfg.iterations, cfg.warmup, cfg.schedule)
        for role, peak in (
            ("policy", cfg.learning_rate),
            ("value", cfg.value_learning_rate or cfg.learning_rate),
        )
    }
    sums: dict[str, float] = {}
    updates = 0
    for epoch in range(cfg.ppo_epochs):
        drawn = torch.randperm(
            len(lengths), generator=generator(context.seed, "ppo", iteration, "epoch", epoch)
        )
        for minibatch in drawn.split(cfg.minibatch_size):
            count = int(lengths[minibatch.to(lengths.device)].sum())
            local = [mine[row] for row in minibatch.tolist() if row in mine]
            for name, value in _minibatch(context, rollout, advantages, returns, local, count, rates).items():
                sums[name] = sums.get(name, 0.0) + value
            updates += 1
    metrics = {name: value / updates for name, value in sums.items()}
    return metrics | {f"{role}/learning_rate": rate for role, rate in rates.items()}


def _minibatch(
    context: Context,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    rows: list[int],
    count: int,
    rates: dict[str, float],
) -> dict[str, float]:
    """One optimizer step of the policy and one of the value model, each with its own adapter active."""
    cfg, forward, accel = context.cfg, context.forward, context.accel
    rows = sorted(rows, key=lambda i: int(rollout.trunks[i].lengths))
    sums = torch.zeros(5, dtype=torch.float64, device=forward.roles.base.device)
    for start in range(0, len(rows), cfg.microbatch_size):
        part = rows[start : start + cfg.microbatch_size]
        trunk = stack([rollout.trunks[i] for i in part])
        width = int((trunk.lengths - trunk.prompt_lengths).max())

        def cut(field: Tensor, part: list[int] = part, width: int = width) -> Tensor:
            return field[part, :width]

        logprobs, _, mask = forward.logprobs("policy", trunk, cfg.temperature)
        loss, stats = policy_loss(
            logprobs, cut(rollout.old_logprobs), cut(advantages), mask, cfg.clip_range, count
        )
        loss.backward()
        values = forward.values("value", trunk)
        error, value_stats = value_loss(
            values, cut(rollout.old_values), cut(returns), mask, cfg.value_clip_range, count
        )
        error.backward()
        parts = [loss, stats.clip_fraction_sum / count, stats.approx_kl_sum / count]
        sums += torch.stack([*parts, error, value_stats.clip_fraction_sum / count]).detach()
    norms = {role: _clip(context, role) for role in TRAINED}
    for role, norm in norms.items():
        if not norm < float("inf"):
            raise AlignError(
                f"ppo: the {role}'s gradient is {norm}; lower its learning rate. This update was not applied"
            )
    for role in TRAINED:
        _apply(context, role, rates[role])
    names = ("policy/loss", "policy/clip_fraction", "policy/approx_kl", "value/loss", "value/clip_fraction")
    metrics = dict(zip(names, distributed.total(sums, accel).tolist(), strict=True))
    return metrics | {f"{role}/gradient_norm": norm for role, norm in norms.items()}


def _clip(context: Context, role: str) -> float:
    """Sum the processes' gradients and clip them; returns the norm before clipping."""
    parameters = list(context.forward.roles.parameters_of(role).values())
    distributed.sum_gradients(parameters, context.accel)
    return float(torch.nn.utils.clip_grad_norm_(parameters, context.cfg.max_grad_norm))


def _apply(context: Context, role: str, rate: float) -> None:
    optimizer = context.optimizers[role]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
