"""Advantages of whole responses, from the other responses to the same prompt. No value model is needed.

A row of each [G, K] tensor is a prompt, with the rewards of its K responses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.masked import at_least_float32

EPSILON = 1e-6  # added to a group's standard deviation


@torch.no_grad()
def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO: each response's reward minus the mean of the others', [G, K].

        A_i = R_i - sum_{j != i} R_j / (K - 1)

    Source: Kool et al. 2019; Ahmadian et al. 2024 (2402.14740), section 2.2, where R is the score less the
    KL penalty of the whole response. Raises ValueError where there is no other response.
    """
    exact = _exact(rewards)
    count = exact.shape[1]
    return ((exact - exact.mean(1, keepdim=True)) * (count / (count - 1))).to(at_least_float32(rewards))


@torch.no_grad()
def standardised(rewards: Tensor) -> Tensor:
    """GRPO: how many standard deviations each response lies from its group's mean, [G, K].

        A_i = (R_i - mean(R)) / (std(R) + 1e-6), std with K - 1

    Source: Shao et al. 2024 (2402.03300), section 4.1.2. A group of equal rewards has advantage 0.
    Raises ValueError where there is no other response.
    """
    exact = _exact(rewards)
    found = (exact - exact.mean(1, keepdim=True)) / (exact.std(1, keepdim=True) + EPSILON)
    return found.to(at_least_float32(rewards))


def _exact(rewards: Tensor) -> Tensor:
    """In float64, where the mean of equal float32 rewards is that reward: no rounding is left to divide by.

    (On the CPU, since Apple's GPUs have no float64; a group is a few numbers.)
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"a group has at least two responses: [G, K >= 2], not {list(rewards.shape)}")
    return rewards.cpu().double()
