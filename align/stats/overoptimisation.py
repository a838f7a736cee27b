"""When a second opinion falls and the reward that trains the policy does not (Gao et al., 2210.10760)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, variance

WINDOW = 10  # values that are averaged
_ERRORS = 6.0  # standard errors that tell a change from noise: the peak is the best of many windows


def overoptimised(training: Sequence[float], guard: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the guard has fallen from its peak while the training score has not.

    Both are means over windows. The peak is the window, not overlapping the last one, with the highest
    guard score. From there to the last window the guard must have fallen by more than 6 standard errors, and
    the training score by no more than as many of its own, taken from the spread within the two windows. It
    need not have risen: at its reward model's ceiling a policy goes on to drift. Where both fall, it is the
    policy that broke. False before there are two windows.
    """
    if len(training) != len(guard):
        raise ValueError(f"{len(training)} training scores and {len(guard)} of the guard")
    if window < 2:
        raise ValueError("a window of one value has no spread")
    starts = range(len(guard) - 2 * window + 1)
    if not starts:
        return False
    peak = max(starts, key=lambda i: fmean(guard[i : i + window]))

    def fell(values: Sequence[float]) -> bool:
        then, now = values[peak : peak + window], values[-window:]
        error = ((variance(then) + variance(now)) / window) ** 0.5
        return fmean(then) - fmean(now) > _ERRORS * error

    return fell(guard) and not fell(training)
