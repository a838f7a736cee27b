"""Means with intervals that know that what comes from one prompt hangs together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling.figures.shapes import Estimate

Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]
RESAMPLES = 1000
TAIL = 0.025  # on each side of a 95% interval
_CHUNK = 2**22  # numbers drawn at a time


class Tally:
    """Collects weighted values by group and prompt; a prompt is an index below `prompts`."""

    def __init__(self, prompts: int) -> None:
        self._prompts = prompts
        self._groups: dict[Hashable, _Group] = {}

    def add(
        self,
        group: Hashable,
        prompt: Whole,
        total: Numbers,
        weight: Numbers,
        count: int,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Add weighted sums of values and the weights' sums, an element each, from `count` judgements."""
        if group not in self._groups:
            self._groups[group] = _Group(np.zeros(self._prompts), np.zeros(self._prompts), bounds)
        found = self._groups[group]
        np.add.at(found.sums, prompt, total)
        np.add.at(found.weights, prompt, weight)
        found.count += count

    def estimates(self) -> dict[Hashable, Estimate]:
        """Each group's mean, with the percentile interval of a bootstrap over prompts.

        All values of a drawn prompt come along (Efron and Tibshirani 1993, chapter 8). Every group sees the
        same draws, which are the same each time. A group of a single prompt has no interval. Where all
        values stand at a bound, resampling sees no spread; the interval then is that of Clopper and Pearson
        (1934) for as many prompts, all alike.
        """
        groups = {name: group for name, group in self._groups.items() if group.weights.any()}
        if not groups:
            return {}
        table = np.column_stack([x for group in groups.values() for x in (group.sums, group.weights)])
        drawn = np.concatenate([times @ table for times in draws(self._prompts, RESAMPLES)])
        found = {}
        for (name, group), sums, weights in zip(groups.items(), drawn.T[::2], drawn.T[1::2], strict=True):
            value = float(group.sums.sum() / group.weights.sum())
            prompts = int(np.count_nonzero(group.weights))
            known = weights > 0
            low, high = _interval(sums[known] / weights[known], value, prompts, group.bounds)
            found[name] = Estimate(value=value, low=low, high=high, count=group.count, prompts=prompts)
        return found


@dataclass
class _Group:
    sums: Numbers
    weights: Numbers
    bounds: tuple[float, float]
    count: int = 0


def draws(prompts: int, number: int) -> Iterator[Numbers]:
    """How often each prompt comes in each resample, [resamples, prompts], in parts; always the same."""
    random = np.random.default_rng(0)
    chunk = max(1, _CHUNK // max(1, prompts))
    for start in range(0, number, chunk):
        size = min(chunk, number - start)
        drawn = random.integers(prompts, size=(size, prompts), dtype=np.int32)
        drawn += prompts * np.arange(size, dtype=np.int32)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * prompts).reshape(size, prompts).astype(np.float64)


def _interval(
    drawn: Numbers, value: float, prompts: int, bounds: tuple[float, float]
) -> tuple[float | None, float | None]:
    if prompts < 2:
        return None, None
    lowest, highest = bounds
    reach = (highest - lowest) * TAIL ** (1 / prompts)
    if value >= highest:
        return lowest + reach, highest
    if value <= lowest:
        return lowest, highest - reach
    low, high = np.quantile(drawn, (TAIL, 1 - TAIL))
    return float(low), float(high)
