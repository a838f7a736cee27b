"""When the reward that trains the policy rises and a second opinion falls (Gao et al., 2210.10760)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, variance

WINDOW = 10  # values that are averaged
_ERRORS = 5.0  # standard errors that tell a change from noise: the peak is the best of many windows


def overoptimised(training: Sequence[float], guard: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the guard has fallen from its peak while the training score has risen since then.

    Both are means over windows. The peak is the window, not overlapping the last one, with the highest
    guard score; both changes from there to the last window must exceed 5 standard errors, taken from
    the spread within the two windows. False before there are two windows.
    """
    if len(training) != len(guard):
        raise ValueError(f"{len(training)} training scores and {len(guard)} of the guard")
    if window < 2:
        raise ValueError("a window of one value has no spread")
    starts = range(len(guard) - 2 * window + 1)
    if not starts:
        return False
    peak = max(starts, key=lambda i: fmean(guard[i : i + window]))

    def change(values: Sequence[float]) -> tuple[float, float]:
        then, now = values[peak : peak + window], values[-window:]
        error = ((variance(then) + variance(now)) / window) ** 0.5
        return fmean(now) - fmean(then), _ERRORS * error

    (rise, risen), (fall, fallen) = change(training), change(guard)
    return rise > risen and -fall > fallen
