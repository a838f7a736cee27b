"""What PPO does with one rollout: ppo_epochs passes of clipped policy and value updates.

A loss is a list of named terms. To add one: a `Term` in `policy_terms` or `value_terms`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from align.models.batch import PrefixStates, stack
from align.models.forward import Forward
from align.models.optimizer import apply, clip, learning_rate
from align.models.passes import Pass, passes, states
from align.objectives.kl import kl_loss
from align.objectives.masked import masked_sum
from align.objectives.ppo import policy_loss, value_loss
from align.ppo.advantages import AdvantageEstimate
from align.ppo.ptx import ptx_backward
from align.ppo.roles import Context
from align.ppo.rollout import Rollout
from align.ppo.safety import bad_numbers, not_applied
from align.processes import distributed
from align.recipe.ppo import PPO
from align.run.folder import StageRun
from align.seeds import generator


class Term(NamedTuple):
    """A named part of a loss, which counts `weight` times; without a weight it is a statistic."""

    metric: str
    value: Tensor  # a scalar, divided by the minibatch's tokens over all processes
    weight: float = 0.0


@dataclass(frozen=True)
class Minibatch:
    """This process's responses of one update, b rows; `count` are the real tokens of all processes."""

    prefixes: list[PrefixStates]
    response_mask: Tensor  # [b, T] bool
    old_logprobs: Tensor  # [b, T]
    ref_logprobs: Tensor  # [b, T]
    advantages: Tensor  # [b, T]
    old_values: Tensor | None  # [b, T]
    returns: Tensor | None  # [b, T]
    count: int
    kl_coef: float  # of the KL term in the policy's loss; 0 where the penalty is part of the rewards

    @classmethod
    def of(
        cls, rollout: Rollout, found: AdvantageEstimate, rows: list[int], count: int, kl_coef: float
    ) -> Minibatch:
        """These rows of this process's rollout."""
        return cls(
            [rollout.prefixes[i] for i in rows],
            rollout.response_mask[rows],
            rollout.old_logprobs[rows],
            rollout.ref_logprobs[rows],
            found.advantages[rows],
            None if rollout.old_values is None else rollout.old_values[rows],
            None if found.returns is None else found.returns[rows],
            count,
            kl_coef,
        )


def update(
    context: Context,
    stage: StageRun,
    rollout: Rollout,
    found: AdvantageEstimate,
    kl_coef: float,
    iteration: int,
) -> dict[str, float]:
    """ppo_epochs passes over the rollout in minibatches drawn over all processes' rows; gives the metrics.

    kl_coef: of the KL term in the policy's loss. The passes end early at ppo.target_kl.
    """
    cfg, accel = context.cfg, context.accel
    lengths = distributed.gather_rows(rollout.response_mask.sum(1), accel)
    mine = {row: local for local, row in enumerate(distributed.share(list(range(len(lengths))), accel))}
    trains = ("value",) if iteration < cfg.value_warmup else context.trained
    rates = {role: _rate(cfg, role, iteration) for role in context.trained}
    seen: list[dict[str, float]] = []
    applied = 0
    for step, rows in enumerate(_minibatches(context, len(lengths), iteration)):
        local = [mine[row] for row in rows.tolist() if row in mine]
        count = int(lengths[rows.to(lengths.device)].sum())
        part = Minibatch.of(rollout, found, local, count, kl_coef)
        metrics = gradients(context, part, trains, iteration, step)
        seen.append(metrics)
        if what := bad_numbers(metrics):
            _forget(context)
            not_applied(context, stage, rollout, local, iteration, what)
            continue
        if cfg.target_kl is not None and metrics["policy/approx_kl"] > cfg.target_kl:
            _forget(context)
            break
        for role in trains:
            apply(context.optimizers[role], rates[role])
        context.state.bad_in_a_row = 0
        applied += 1
    means = {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
    used = {f"{role}/learning_rate": rate if role in trains else 0.0 for role, rate in rates.items()}
    return means | used | {"policy/updates": float(applied)}


def _rate(cfg: PPO, role: str, iteration: int) -> float:
    peak = (cfg.value_learning_rate if role == "value" else None) or cfg.learning_rate
    return learning_rate(peak, iteration, cfg.iterations, cfg.warmup, cfg.schedule)


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


def gradients(
    context: Context, batch: Minibatch, trains: Sequence[str], iteration: int, step: int
) -> dict[str, float]:
    """Fill the gradients of one update, cut to ppo.max_grad_norm; gives its metrics over all processes."""
    cfg, forward = context.cfg, context.forward
    sums = {} if "policy" in trains else _silent(cfg, batch)
    for part in passes(forward.roles, batch.prefixes, cfg.microbatch_tokens, states(forward)):
        for terms in _losses(cfg, forward, batch, part, trains):
            torch.stack([term.weight * term.value for term in terms if term.weight]).sum().backward()
            for term in terms:
                sums[term.metric] = sums.get(term.metric, 0.0) + term.value.detach().double()
    for role in context.trained:
        if role not in trains:  # a value head on the policy's adapter left it gradients
            context.optimizers[role].zero_grad()
    if cfg.ptx_coef and "policy" in trains:
        sums["policy/ptx_loss"] = ptx_backward(context, iteration, step)
    totals = distributed.total(torch.stack(list(sums.values())), context.accel).tolist()
    parameters = {role: context.forward.roles.parameters_of(role).values() for role in context.trained}
    norms = {
        f"{role}/gradient_norm": clip(own, cfg.max_grad_norm, context.accel) if role in trains else 0.0
        for role, own in parameters.items()
    }
    return dict(zip(sums, totals, strict=True)) | norms


def _losses(
    cfg: PPO, forward: Forward, batch: Minibatch, part: Pass[PrefixStates], trains: Sequence[str]
) -> Iterator[list[Term]]:
    """The terms of one backward pass after the other, each with its own adapter active."""
    prefix, entropy = stack(part.items), bool(cfg.entropy_coef)
    if cfg.value_model == "shared" and batch.returns is not None:
        *tokens, values = forward.logprobs_and_values("policy", "value", prefix, cfg.temperature, entropy)
        terms = value_terms(cfg, batch, part, values)
        yield terms + (policy_terms(cfg, batch, part, *tokens) if "policy" in trains else [])
        return
    if "policy" in trains:
        yield policy_terms(cfg, batch, part, *forward.logprobs("policy", prefix, cfg.temperature, entropy))
    if "value" in trains:
        yield value_terms(cfg, batch, part, forward.values("value", prefix))


def policy_terms(
    cfg: PPO, batch: Minibatch, part: Pass[PrefixStates], logprobs: Tensor, entropies: Tensor, mask: Tensor
) -> list[Term]:
    """The policy's loss on a microbatch: its surrogate, the KL term and the entropy bonus; [b, T] each."""
    width, count = mask.shape[1], batch.count
    old = part.take(batch.old_logprobs, width)
    advantages = part.take(batch.advantages, width)
    loss, stats = policy_loss(logprobs, old, advantages, mask, cfg.clip_range, count, cfg.clip_range_high)
    terms = [
        Term("policy/loss", loss, 1.0),
        Term("policy/clip_fraction", stats.clip_fraction_sum / count),
        Term("policy/approx_kl", stats.approx_kl_sum / count),
    ]
    if batch.kl_coef:
        per_token = kl_loss(logprobs, old, part.take(batch.ref_logprobs, width), cfg.kl_estimator)
        terms.append(Term("policy/kl_loss", masked_sum(per_token, mask) / count, batch.kl_coef))
    if cfg.entropy_coef:
        terms.append(Term("policy/entropy_bonus", masked_sum(entropies, mask) / count, -cfg.entropy_coef))
    return terms


def value_terms(cfg: PPO, batch: Minibatch, part: Pass[PrefixStates], values: Tensor) -> list[Term]:
    """The value model's loss on a microbatch, values [b, T]."""
    assert batch.old_values is not None and batch.returns is not None
    width, count = values.shape[1], batch.count
    old, returns = part.take(batch.old_values, width), part.take(batch.returns, width)
    mask = part.take(batch.response_mask, width)
    error, stats = value_loss(values, old, returns, mask, cfg.value_clip_range, count)
    return [
        Term("value/loss", error, cfg.value_coef),
        Term("value/clip_fraction", stats.clip_fraction_sum / count),
    ]


def _silent(cfg: PPO, batch: Minibatch) -> dict[str, Tensor]:
    """The policy's metrics while the value model alone trains: 0, those of no token."""
    none = batch.advantages.new_zeros(1, 0)
    terms = policy_terms(cfg, batch, Pass([], []), none, none, none.bool())
    names = [term.metric for term in terms] + (["policy/ptx_loss"] if cfg.ptx_coef else [])
    return {name: none.sum().double() for name in names}


def _forget(context: Context) -> None:
    for optimizer in context.optimizers.values():
        optimizer.zero_grad()
