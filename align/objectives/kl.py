"""Estimators of KL(policy || reference) a token, from tokens that the policy drew.

Source: Schulman, "Approximating KL divergence" (2020). With log r = ref_logprobs - logprobs:

    k1 = -log r             unbiased, may be negative (never clamp it: that makes it biased)
    k2 = (log r)^2 / 2      biased, never negative, low variance
    k3 = (r - 1) - log r    unbiased, never negative, low variance

All take and give the same shape, [B, T] as a rule, in at least float32. They know no padding: sum or
average them with `masked_sum` or `masked_mean`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.masked import at_least_float32


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
