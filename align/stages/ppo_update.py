"""What PPO does with one rollout: ppo_epochs passes of clipped policy and value updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from align.data.batches import microbatches
from align.models.forward import stack
from align.objectives.kl import kl_loss
from align.objectives.masked import masked_sum
from align.objectives.ppo import policy_loss, value_loss
from align.rollouts.rollout import Rollout
from align.runtime import distributed
from align.runtime.run import StageRun
from align.runtime.schedule import learning_rate
from align.seeds import generator
from align.stages.ppo_ptx import ptx_backward
from align.stages.ppo_roles import TRAINED, Context
from align.stages.ppo_steer import bad_numbers, not_applied

# What an update sums up, by metric; the last three are 0, and not logged, where their coefficient is 0.
_SUMS = ("policy/loss", "policy/clip_fraction", "policy/approx_kl", "value/loss", "value/clip_fraction")
_MORE = ("policy/kl_loss", "policy/entropy_bonus", "policy/ptx_loss")


@dataclass(frozen=True)
class _Work:
    """What the updates of one iteration share."""

    rollout: Rollout
    advantages: Tensor  # [B, T]
    returns: Tensor  # [B, T]
    kl_coef: float  # of the loss; 0 where the penalty is part of the rewards
    roles: tuple[str, ...]  # that are trained
    rates: dict[str, float]


def update(
    context: Context,
    stage: StageRun,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    kl_coef: float,
    iteration: int,
) -> dict[str, float]:
    """ppo_epochs passes over the rollout in minibatches drawn over all processes' rows.

    kl_coef: of the KL term in the policy's loss. The passes end early at ppo.target_kl.
    """
    cfg, accel = context.cfg, context.accel
    lengths = distributed.gather_rows(rollout.response_mask.sum(1), accel)
    mine = {row: local for local, row in enumerate(distributed.share(list(range(len(lengths))), accel))}
    roles = ("value",) if iteration < cfg.value_warmup else TRAINED
    rates = {
        role: learning_rate(peak, iteration, cfg.iterations, cfg.warmup, cfg.schedule)
        for role, peak in (
            ("policy", cfg.learning_rate),
            ("value", cfg.value_learning_rate or cfg.learning_rate),
        )
    }
    work = _Work(rollout, advantages, returns, kl_coef, roles, rates)
    found: list[dict[str, float]] = []
    applied = 0
    for step, minibatch in enumerate(_minibatches(context, len(lengths), iteration)):
        count = int(lengths[minibatch.to(lengths.device)].sum())
        local = [mine[row] for row in minibatch.tolist() if row in mine]
        metrics = _gradients(context, work, local, count, iteration, step)
        found.append(metrics)
        if what := bad_numbers(metrics):
            _forget(context)
            not_applied(context, stage, rollout, local, iteration, what)
            continue
        if cfg.target_kl is not None and metrics["policy/approx_kl"] > cfg.target_kl:
            _forget(context)
            break
        for role in roles:
            _apply(context, role, rates[role])
        context.state.bad_in_a_row = 0
        applied += 1
    means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    rates = {f"{role}/learning_rate": rate if role in roles else 0.0 for role, rate in rates.items()}
    return means | rates | {"policy/updates": float(applied)}


def _minibatches(context: Context, rows: int, iteration: int) -> list[Tensor]:
    """The rows of each update, over all processes: a function of (seed, iteration, epoch)."""
    cfg = context.cfg
    return [
        minibatch
        for epoch in range(cfg.ppo_epochs)
        for minibatch in torch.randperm(
            rows, generator=generator(context.seed, "ppo", iteration, "epoch", epoch)
        ).split(cfg.minibatch_size)
    ]


def _gradients(
    context: Context, work: _Work, rows: list[int], count: int, iteration: int, step: int
) -> dict[str, float]:
    """Fill the gradients of one update, each role's with its own adapter active; sums over all processes."""
    cfg, forward, rollout = context.cfg, context.forward, work.rollout
    sums = torch.zeros(len(_SUMS + _MORE), dtype=torch.float64, device=forward.roles.base.device)
    sizes = [(1, int(rollout.trunks[i].lengths)) for i in rows]
    groups = microbatches(sizes, cfg.microbatch_tokens)
    idle = forward.more_elsewhere(len(groups))
    for group in groups:
        part = [rows[i] for i in group]
        trunk = stack([rollout.trunks[i] for i in part])
        if cfg.value_model == "shared":
            logprobs, entropies, mask, values = forward.logprobs_and_values(
                "policy", "value", trunk, cfg.temperature, entropy_gradient=bool(cfg.entropy_coef)
            )
            error, parts = _value(context, work, part, values, count)
            if "policy" in work.roles:
                loss, more = _policy(context, work, part, logprobs, entropies, mask, count)
                error, parts = error + loss, parts + more
            error.backward()
            sums += parts
            continue
        if "policy" in work.roles:
            loss, parts = _policy(
                context,
                work,
                part,
                *forward.logprobs("policy", trunk, cfg.temperature, entropy_gradient=bool(cfg.entropy_coef)),
                count,
            )
            loss.backward()
            sums += parts
        error, parts = _value(context, work, part, forward.values("value", trunk), count)
        error.backward()
        sums += parts
    passes = ["policy"] if cfg.value_model == "shared" else sorted(work.roles)
    forward.idle(idle, passes, lower=False)
    for role in TRAINED:
        if role not in work.roles:  # a value head on the policy's adapter left it gradients
            context.optimizers[role].zero_grad()
    if "policy" in work.roles and cfg.ptx_coef:
        sums[7] += ptx_backward(context, iteration, step)
    totals = distributed.total(sums, context.accel).tolist()
    wanted = (work.kl_coef, cfg.entropy_coef, cfg.ptx_coef)
    metrics = dict(zip(_SUMS, totals, strict=False))
    metrics |= {name: x for name, x, on in zip(_MORE, totals[len(_SUMS) :], wanted, strict=True) if on}
    norms = {role: _clip(context, role) if role in work.roles else 0.0 for role in TRAINED}
    return metrics | {f"{role}/gradient_norm": norm for role, norm in norms.items()}


def _policy(
    context: Context,
    work: _Work,
    part: list[int],
    logprobs: Tensor,
    entropies: Tensor,
    mask: Tensor,
    count: int,
) -> tuple[Tensor, Tensor]:
    """The policy's loss on a microbatch, and its part of the sums."""
    cfg, rollout = context.cfg, work.rollout
    width = mask.shape[1]
    old = rollout.old_logprobs[part, :width]
    loss, stats = policy_loss(logprobs, old, work.advantages[part, :width], mask, cfg.clip_range, count)
    zero = loss.new_zeros(())
    kl = entropy = zero
    whole = loss
    if work.kl_coef:
        per_token = kl_loss(logprobs, old, rollout.ref_logprobs[part, :width], cfg.kl_estimator)
        kl = masked_sum(per_token, mask) / count
        whole = whole + work.kl_coef * kl
    if cfg.entropy_coef:
        entropy = masked_sum(entropies, mask) / count
        whole = whole - cfg.entropy_coef * entropy
    parts = [loss, stats.clip_fraction_sum / count, stats.approx_kl_sum / count, zero, zero]
    return whole, torch.stack([*parts, kl, entropy, zero]).detach().double()


def _value(
    context: Context, work: _Work, part: list[int], values: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The value model's loss on a microbatch, and its part of the sums."""
    cfg, rollout, width = context.cfg, work.rollout, values.shape[1]
    error, stats = value_loss(
        values,
        rollout.old_values[part, :width],
        work.returns[part, :width],
        rollout.response_mask[part, :width],
        cfg.value_clip_range,
        count,
    )
    zero = error.new_zeros(())
    parts = [zero, zero, zero, error, stats.clip_fraction_sum / count, zero, zero, zero]
    whole = error if cfg.value_coef == 1 else cfg.value_coef * error
    return whole, torch.stack(parts).detach().double()


def _clip(context: Context, role: str) -> float:
    """Sum the processes' gradients and clip them; returns the norm before clipping."""
    parameters = list(context.forward.roles.parameters_of(role).values())
    distributed.sum_gradients(parameters, context.accel)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, context.cfg.max_grad_norm))
    return norm


def _apply(context: Context, role: str, rate: float) -> None:
    optimizer = context.optimizers[role]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _forget(context: Context) -> None:
    for optimizer in context.optimizers.values():
        optimizer.zero_grad()
