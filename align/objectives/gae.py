"""Generalised advantage estimation (Schulman et al. 2016, 1506.02438, equations 11 to 16)."""

from __future__ import annotations

import torch
from torch import Tensor

from align.objectives.masked import fill_padding


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Give (advantages, returns), both [B, T], without a gradient and 0 at padding.

        delta_t     = rewards_t + gamma * values_{t+1} - values_t
        advantage_t = delta_t + gamma * lam * advantage_{t+1}
        return_t    = advantage_t + values_t

    rewards, values: [B, T]; values_t is the expectation before token t is drawn. mask: [B, T], True at
    real response tokens, which stand next to each other. After the last real token value and advantage
    are 0: a response ends there. To bootstrap from a value, put gamma times it into the last reward.

    Raises ValueError if the shapes differ or the mask is not boolean.
    """
    rewards, values = fill_padding(mask, rewards=rewards, values=values)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(values.shape[0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(mask[:, t], delta + gamma * lam * next_advantage, 0.0)
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values
