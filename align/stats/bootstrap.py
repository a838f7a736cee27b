"""Means with intervals that know that what comes from one prompt hangs together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from align.stats.estimate import Estimate

Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]
Bounds = tuple[float, float]  # the least and the greatest value that there can be
Draw = Callable[[Numbers], Numbers]  # [prompts, columns] to sums over drawn prompts, [resamples, columns]
TAIL = 0.025  # on each side of a 95% interval
CHUNK = 2**22  # prompts drawn at a time, over all resamples of a part


@dataclass(frozen=True)
class Draws:
    """Draws prompts with replacement, the same ones each time.

    It adds up too, for those who draw by another library: sums of two libraries differ in the last bit.
    """

    number: int = 1000  # of resamples

    def total(self, column: Numbers) -> float:
        """The sum of a column [prompts]."""
        return float(column.sum())

    def parts(self, prompts: int) -> Iterator[Draw]:
        """The resamples in parts, the same ones in each call."""
        random = np.random.default_rng(0)
        chunk = max(1, CHUNK // max(1, prompts))
        for start in range(0, self.number, chunk):
            size = min(chunk, self.number - start)
            drawn = random.integers(prompts, size=(size, prompts), dtype=np.int32)
            drawn += prompts * np.arange(size, dtype=np.int32)[:, None]
            times = np.bincount(drawn.ravel(), minlength=size * prompts).reshape(size, prompts)
            yield times.astype(np.float64).__matmul__


class Observation(NamedTuple):
    """One number that goes into a mean: of which prompt, and of which group."""

    prompt: int
    group: Hashable
    value: float


@dataclass
class _Group:
    sums: Numbers
    weights: Numbers
    bounds: Bounds | None
    count: int = 0


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
        bounds: Bounds | None = (0.0, 1.0),
    ) -> None:
        """Add weighted sums of values and the weights' sums, an element each, from `count` judgements."""
        if group not in self._groups:
            self._groups[group] = _Group(np.zeros(self._prompts), np.zeros(self._prompts), bounds)
        found = self._groups[group]
        np.add.at(found.sums, prompt, total)
        np.add.at(found.weights, prompt, weight)
        found.count += count

    def estimates(self, draws: Draws) -> dict[Hashable, Estimate]:
        """Each group's mean, with the percentile interval of a bootstrap over prompts.

        All values of a drawn prompt come along (Efron and Tibshirani 1993, chapter 8), so ten comparisons of
        one prompt don't count as ten independent ones. Every group sees the same draws. A group of a single
        prompt has no interval. Where all values stand at a bound, resampling sees no spread; the interval
        then is that of Clopper and Pearson (1934) for as many prompts, all alike.
        """
        groups = {name: group for name, group in self._groups.items() if group.weights.any()}
        if not groups:
            return {}
        sums = np.column_stack([group.sums for group in groups.values()])
        weights = np.column_stack([group.weights for group in groups.values()])
        with np.errstate(invalid="ignore"):  # nan where nothing of a group was drawn
            drawn = np.concatenate([draw(sums) / draw(weights) for draw in draws.parts(self._prompts)])
        found = {}
        for i, (name, group) in enumerate(groups.items()):
            value = draws.total(sums[:, i]) / draws.total(weights[:, i])
            prompts = int(np.count_nonzero(group.weights))
            low, high = interval(drawn[:, i], value, prompts, group.bounds)
            found[name] = Estimate(value, low, high, group.count, prompts)
        return found


def means(
    entries: Iterable[Observation], prompts: int, draws: Draws, bounds: Bounds | None = (0.0, 1.0)
) -> dict[Hashable, Estimate]:
    """The mean of each group's values, as `Tally.estimates` has it."""
    groups: dict[Hashable, tuple[list[int], list[float]]] = {}
    for prompt, group, value in entries:
        at, values = groups.setdefault(group, ([], []))
        at.append(prompt)
        values.append(value)
    tally = Tally(prompts)
    for group, (at, values) in groups.items():
        tally.add(group, np.array(at), np.array(values, float), np.ones(len(at)), len(at), bounds)
    return tally.estimates(draws)


def interval(
    drawn: Numbers, value: float, prompts: int, bounds: Bounds | None
) -> tuple[float | None, float | None]:
    """The 95% interval of a value with its resamples [R], as `Tally.estimates` has it."""
    if prompts < 2:
        return None, None
    if bounds is not None:
        lowest, highest = bounds
        reach = (highest - lowest) * TAIL ** (1 / prompts)
        if value >= highest:
            return lowest + reach, highest
        if value <= lowest:
            return lowest, highest - reach
    low, high = np.quantile(drawn[~np.isnan(drawn)], (TAIL, 1 - TAIL))
    return float(low), float(high)
