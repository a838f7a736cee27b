"""Means over runs that differ in their seed alone, with Student's interval. Plain Python, no numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

# The 97.5% points of Student's t with 1, 2, … degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL = 1.960


@dataclass(frozen=True)
class OverSeeds:
    """A mean over seeds, its standard error and 95% interval (None with one seed), and each seed's value."""

    value: float
    se: float | None
    low: float | None
    high: float | None
    by_seed: dict[str, float]


def over_seeds(values: Mapping[int, float], least: float = -math.inf, most: float = math.inf) -> OverSeeds:
    """The mean of one value a seed; least and most: what the interval is cut at, as a share's at 0 and 1.

    value ± t s / sqrt(n), with s of n - 1 degrees of freedom: seeds are few, and a bootstrap over three would
    be too narrow. Raises ValueError without any.
    """
    if not values:
        raise ValueError("no seed has a value")
    named = {str(seed): float(value) for seed, value in values.items()}
    mean, count = fmean(named.values()), len(named)
    if count == 1:
        return OverSeeds(mean, None, None, None, named)
    se = stdev(named.values()) / math.sqrt(count)
    reach = se * (_T[count - 2] if count - 2 < len(_T) else _NORMAL)
    return OverSeeds(mean, se, max(mean - reach, least), min(mean + reach, most), named)
