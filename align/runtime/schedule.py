"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Literal


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
