"""One optimizer step: the learning rate, the processes' gradients, and the update."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn

from align.processes import distributed


def learning_rate(
    peak: float, step: int, steps: int, warmup: float, schedule: Literal["constant", "linear", "cosine"]
) -> float:
    """The rate of step `step` (from 0): ceil(warmup * steps) steps below `peak`, then the schedule.

    No step has rate 0: the rise starts above it, and linear and cosine reach it only at `steps`.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    if schedule == "constant":
        return peak
    done = (step - rising) / max(1, steps - rising)
    if schedule == "linear":
        return peak * (1 - done)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def clip(parameters: Iterable[nn.Parameter], max_norm: float, accel: Accelerator) -> float:
    """Add up the processes' gradients and cut them to `max_norm`; returns the norm before."""
    parameters = list(parameters)
    distributed.sum_gradients(parameters, accel)
    return float(nn.utils.clip_grad_norm_(parameters, max_norm))


def apply(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Make one step at this learning rate; the gradients are gone afterwards."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
