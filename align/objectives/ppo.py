"""PPO for responses (Schulman et al. 2017, 1707.06347; Ziegler et al. 2019, 1909.08593; 2403.17031).

Losses are sums over real tokens divided by `count`, the number of real tokens in the whole minibatch
over all microbatches and processes. So the parts' losses and gradients add up exactly to the whole's.
(A wrapper that averages gradients over N processes, as DistributedDataParallel does, needs N times
the loss.) The statistics beside a loss are plain sums over real tokens: add them, then divide once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from align.objectives.kl import ESTIMATORS, k3
from align.objectives.masked import fill_padding

# exp(20) is 5e8: a larger ratio says nothing more, and exp(89) overflows float32, after which even the
# clipped branch's zero gradient becomes 0 * inf = nan and the whole policy is lost.
MAX_LOG_RATIO = 20.0


class PolicyStats(NamedTuple):
    """Sums over the real tokens of one call; divide by the same count as the loss."""

    clip_fraction_sum: Tensor
    approx_kl_sum: Tensor


class ValueStats(NamedTuple):
    """Sums over the real tokens of one call; divide by the same count as the loss."""

    clip_fraction_sum: Tensor


@torch.no_grad()
def against_reference(scores: Tensor, reference: Tensor, shape: Literal["centred", "sigmoid"]) -> Tensor:
    """Give what scores [B] are worth beside those of the reference's responses to the same prompts, [B, M].

        centred: mean over m of  scores - reference_m
        sigmoid: mean over m of  sigmoid(scores - reference_m)

    The second lies between 0 and 1: the Bradley-Terry probability of being preferred to a response of the
    reference, averaged over M of them. Source: PAR (2502.18770).
    """
    differences = scores[:, None] - reference
    return (differences.sigmoid() if shape == "sigmoid" else differences).mean(1)


@torch.no_grad()
def shaped_scores(
    scores: Tensor,
    lengths: Tensor,
    eos: Tensor,
    *,
    clip: float | None,
    length_penalty: float,
    missing_eos_penalty: float,
) -> Tensor:
    """Give scores [B] cut to [-clip, clip], minus length_penalty a token, minus the penalty without EOS.

    scores, lengths (real response tokens): [B]; eos: [B] bool. Penalties come after the cut, so that a
    response at the bound still feels them.
    """
    cut = scores if clip is None else scores.clamp(-clip, clip)
    penalties = missing_eos_penalty * (~eos).float()
    return cut - penalties - length_penalty * lengths if length_penalty else cut - penalties


@torch.no_grad()
def token_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    kl_coef: float,
    estimator: Literal["k1", "k2", "k3"] = "k1",
) -> Tensor:
    """Give rewards [B, T]: -kl_coef * estimator(logprobs, ref_logprobs), plus the score at the last one.

    k1 is logprobs - ref_logprobs. scores: [B]; the others [B, T]. No gradient; 0 at padding.
    Source: InstructGPT (2203.02155) equation 2, without the pretraining term, spread over tokens as in
    1909.08593.

    Raises ValueError if shapes differ, or a row has no real token and its score no place.
    """
    logprobs, ref_logprobs = fill_padding(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    if scores.shape != mask.shape[:1]:
        raise ValueError(f"scores has shape {tuple(scores.shape)}, the mask has {tuple(mask.shape)}")
    if not bool(mask.any(dim=1).all()):
        raise ValueError("a response without a real token cannot be given its score")
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).amax(dim=1, keepdim=True)
    score = torch.where(positions == last, scores.to(logprobs).unsqueeze(1), 0.0)
    return score - kl_coef * ESTIMATORS[estimator](logprobs, ref_logprobs)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float,
    count: int,
    clip_range_high: float | None = None,
) -> tuple[Tensor, PolicyStats]:
    """Give the clipped surrogate loss, a scalar, and its statistics.

        ratio_t = exp(logprobs_t - old_logprobs_t)
        loss    = sum_t max(-A_t ratio_t, -A_t clip(ratio_t, 1 - clip_range, 1 + clip_range_high)) / count

    clip_range_high is clip_range where it is None (an upper range of its own: DAPO's clip-higher,
    2503.14476, equation 10). All tensors [B, T]; only logprobs gets a gradient. Source: 1707.06347,
    equation 7, negated. Log ratios above 20 are cut, so that none overflows. clip_fraction_sum counts the
    tokens whose gradient the clip stopped; approx_kl_sum is k3 of KL(old || new).

    Raises ValueError if shapes differ, the mask is not boolean, or count is not positive.
    """
    _check_count(count)
    logprobs, old_logprobs, advantages = fill_padding(
        mask, logprobs=logprobs, old_logprobs=old_logprobs.detach(), advantages=advantages.detach()
    )
    ratio = (logprobs - old_logprobs).clamp(max=MAX_LOG_RATIO).exp()
    unclipped = -advantages * ratio
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + high)
    loss = torch.maximum(unclipped, clipped).sum() / count
    with torch.no_grad():
        stats = PolicyStats(
            clip_fraction_sum=(clipped > unclipped).sum(dtype=loss.dtype),
            approx_kl_sum=k3(old_logprobs, logprobs).sum(),
        )
    return loss, stats


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    value_clip_range: float | None,
    count: int,
) -> tuple[Tensor, ValueStats]:
    """Give the clipped squared error of the value head, a scalar, and its statistics.

        clipped_t = old_values_t + clip(values_t - old_values_t, -value_clip_range, value_clip_range)
        loss      = sum_t max((values_t - returns_t)^2, (clipped_t - returns_t)^2) / 2 / count

    None clips nothing. All tensors [B, T]; only values gets a gradient.
    Source: OpenAI baselines' ppo2; 2403.17031. clip_fraction_sum counts the tokens whose
    clipped error is the larger one.

    Raises ValueError if shapes differ, the mask is not boolean, or count is not positive.
    """
    _check_count(count)
    values, old_values, returns = fill_padding(
        mask, values=values, old_values=old_values.detach(), returns=returns.detach()
    )
    unclipped = (values - returns).square()
    clipped = unclipped
    if value_clip_range is not None:
        near = old_values + (values - old_values).clamp(-value_clip_range, value_clip_range)
        clipped = (near - returns).square()
    loss = 0.5 * torch.maximum(unclipped, clipped).sum() / count
    return loss, ValueStats(clip_fraction_sum=(clipped > unclipped).sum(dtype=loss.dtype))


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count must be the number of real tokens of the minibatch, not {count}")
