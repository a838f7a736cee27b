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
    count = _responses(rewards)
    rewards = at_least_float32(rewards)
    return (rewards - rewards.mean(1, keepdim=True)) * (count / (count - 1))


@torch.no_grad()
def standardised(rewards: Tensor) -> Tensor:
    """GRPO: how many standard deviations each response lies from its group's mean, [G, K].

        A_i = (R_i - mean(R)) / (std(R) + 1e-6), std with K - 1

    Source: Shao et al. 2024 (2402.03300), section 4.1.2. A group of equal rewards has advantage 0.
    Raises ValueError where there is no other response.
    """
    _responses(rewards)
    rewards = at_least_float32(rewards)
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + EPSILON)


def _responses(rewards: Tensor) -> int:
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"a group has at least two responses: [G, K >= 2], not {list(rewards.shape)}")
    return rewards.shape[1]
