"""Estimators of KL(policy || reference) a token, from tokens that the policy drew.

Source: Schulman, "Approximating KL divergence" (2020). With log r = ref_logprobs - logprobs:

    k1 = -log r             unbiased, may be negative (never clamp it: that makes it biased)
    k2 = (log r)^2 / 2      biased, never negative, low variance
    k3 = (r - 1) - log r    unbiased, never negative, low variance

All take and give the same shape, [B, T] as a rule, in at least float32. They know no padding: sum or
average them with `masked_sum` or `masked_mean`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from align.objectives.masked import at_least_float32

HORIZON_CLIP = 0.2  # Ziegler et al. 2019: the relative error that adaptive_coef answers is cut here
_MAX_LOG_RATIO = 20.0  # exp of more says nothing, and overflows in the end


def _log_ratio(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    if logprobs.shape != ref_logprobs.shape:
        shapes = f"{tuple(logprobs.shape)} and {tuple(ref_logprobs.shape)}"
        raise ValueError(f"logprobs and ref_logprobs have shapes {shapes}")
    return at_least_float32(ref_logprobs) - at_least_float32(logprobs)


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Give logprobs - ref_logprobs, the estimator whose sum PPO's rewards are charged with."""
    return -_log_ratio(logprobs, ref_logprobs)


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Give (logprobs - ref_logprobs)^2 / 2."""
    return _log_ratio(logprobs, ref_logprobs).square() / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Give exp(ref_logprobs - logprobs) - 1 - (ref_logprobs - logprobs)."""
    log_ratio = _log_ratio(logprobs, ref_logprobs)
    return torch.expm1(log_ratio) - log_ratio  # expm1: exp(x) - 1 rounds to 0 for near-equal policies


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def kl_loss(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, estimator: Literal["k1", "k2", "k3"]
) -> Tensor:
    """Give a loss per token whose value estimates KL(policy || reference) and whose gradient is the KL's.

        value    = ratio * estimator(logprobs, ref_logprobs),    ratio = exp(logprobs - old_logprobs)
        gradient = ratio * (logprobs - ref_logprobs) * d logprobs

    All of one shape; only logprobs gets a gradient. Tokens come from the old policy; the ratio makes both
    unbiased for the present one (the value with k1 and k3). The gradient is always k2's: differentiating
    k1 gives one of mean 0, and differentiating k3 that of KL(reference || policy).
    Source: 2506.09477.
    """
    old_logprobs, ref_logprobs = old_logprobs.detach(), ref_logprobs.detach()
    ratio = -_log_ratio(logprobs.detach(), old_logprobs)
    ratio = ratio.clamp(max=_MAX_LOG_RATIO).exp()
    slope = k2(logprobs, ref_logprobs)
    return ratio * (ESTIMATORS[estimator](logprobs.detach(), ref_logprobs) + slope - slope.detach())


def adaptive_coef(coef: float, kl: float, target: float, responses: int, horizon: int) -> float:
    """Give the next KL coefficient: a proportional controller (Ziegler et al. 2019, 1909.08593, section 2.2).

        next = coef * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon)

    kl: mean of the last `responses` responses, in nats, as target is. The factor never falls below 0.
    """
    error = min(max(kl / target - 1, -HORIZON_CLIP), HORIZON_CLIP)
    return coef * max(1 + error * responses / horizon, 0.0)


def reverse_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Give r log r - (r - 1): KL(reference || policy), from tokens that the *policy* drew.

    k3's companion for the other direction: importance weights r turn log r into an unbiased estimate,
    and r - 1, whose mean is 0, makes it non-negative. Heavy-tailed where the policy has left what the
    reference does; log r is cut at 20.
    """
    log_ratio = _log_ratio(logprobs, ref_logprobs).clamp(max=_MAX_LOG_RATIO)
    return log_ratio.exp() * log_ratio - torch.expm1(log_ratio)
