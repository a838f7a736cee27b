"""Scalar heads on the base's last hidden state: one for the reward, one for the value."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """A linear map [..., D] -> [...], computed in float32.

    The weight starts with standard deviation 1/sqrt(D + 1) (Stiennon et al., arXiv 2009.01325), drawn
    from `generator`; the bias starts at zero and later carries the centring.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(width).normal_(std=1 / math.sqrt(width + 1), generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.float() @ self.weight + self.bias
