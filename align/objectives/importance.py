"""Correcting a policy gradient for an engine that sampled from slightly other probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.masked import fill_padding
from align.objectives.ppo import MAX_LOG_RATIO


@torch.no_grad()
def truncated_weights(logprobs: Tensor, engine_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Give min(p_trainer / p_engine, cap) of each token [B, T]; 0 at padding.

    As a factor on the advantages they turn a mean over the engine's tokens into one over the policy's,
    up to the cap, which bounds the variance. Source: Ionides, "Truncated importance sampling" (2008).
    """
    if not cap > 0:
        raise ValueError(f"the cap must be positive, not {cap}")
    logprobs, engine_logprobs = fill_padding(mask, logprobs=logprobs, engine_logprobs=engine_logprobs)
    ratio = (logprobs - engine_logprobs).clamp(max=MAX_LOG_RATIO).exp()
    return ratio.clamp(max=cap).masked_fill(~mask, 0.0)
