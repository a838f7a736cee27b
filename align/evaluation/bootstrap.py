"""Intervals that know that what comes from one prompt hangs together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from align.seeds import generator

_RESAMPLES = 2000
_TAIL = 0.025  # on each side of a 95% interval
_CHUNK_ELEMENTS = 2**22  # prompts drawn at a time, over all resamples of a chunk


class Entry(NamedTuple):
    """One number that goes into a mean: of which prompt, and of which group."""

    prompt: int
    group: Hashable
    value: float


@dataclass(frozen=True)
class Share:
    """A mean with its 95% interval, of `count` things from `prompts` different prompts; nan: not known."""

    value: float
    low: float
    high: float
    count: int
    prompts: int


NOTHING = Share(float("nan"), float("nan"), float("nan"), 0, 0)


def means(
    entries: Iterable[Entry], prompts: int, seed: int, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> dict[Hashable, Share]:
    """The mean of each group's values, with the percentile interval of a bootstrap over prompts.

    All entries of a drawn prompt come along (Efron and Tibshirani 1993, chapter 8), so ten comparisons
    of one prompt don't count as ten independent ones. Every group sees the same 2,000 draws. A group
    from a single prompt has no interval. Where all values stand at one of the `bounds`, resampling sees
    no spread; the interval then is that of Clopper and Pearson (1934) for as many prompts, all alike.
    """
    rows = list(entries)
    groups = {group: i for i, group in enumerate(dict.fromkeys(row.group for row in rows))}
    if not groups:
        return {}
    at = (torch.tensor([row.prompt for row in rows]), torch.tensor([groups[row.group] for row in rows]))
    values = torch.tensor([row.value for row in rows], dtype=torch.float64)
    empty = torch.zeros(prompts, len(groups), dtype=torch.float64)
    sums = empty.index_put(at, values, accumulate=True)
    counts = empty.index_put(at, torch.ones_like(values), accumulate=True)
    resampled = _resample(sums, counts, seed)
    found: dict[Hashable, Share] = {}
    for group, i in groups.items():
        count, drawn_from = int(counts[:, i].sum()), int((counts[:, i] > 0).sum())
        value = float(sums[:, i].sum()) / count
        low, high = _interval(resampled[:, i], value, drawn_from, bounds)
        found[group] = Share(value, low, high, count, drawn_from)
    return found


def _resample(sums: Tensor, counts: Tensor, seed: int) -> Tensor:
    """The groups' means in each resample, [resamples, groups]; nan where none of a group was drawn."""
    prompts = len(sums)
    draws = generator(seed, "bootstrap")
    chunk = max(1, _CHUNK_ELEMENTS // prompts)
    parts = []
    for start in range(0, _RESAMPLES, chunk):
        size = min(chunk, _RESAMPLES - start)
        drawn = torch.randint(prompts, (size, prompts), generator=draws)
        times = torch.zeros(size, prompts, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand(size, prompts))
        parts.append((times @ sums) / (times @ counts))
    return torch.cat(parts)


def _interval(
    resampled: Tensor, value: float, prompts: int, bounds: tuple[float, float] | None
) -> tuple[float, float]:
    if prompts < 2:
        return float("nan"), float("nan")
    if bounds is not None and value in bounds:
        lowest, highest = bounds
        reach = (highest - lowest) * _TAIL ** (1 / prompts)
        return (lowest + reach, highest) if value == highest else (lowest, highest - reach)
    known = resampled[~resampled.isnan()]
    low, high = torch.quantile(known, torch.tensor([_TAIL, 1 - _TAIL], dtype=torch.float64)).tolist()
    return low, high
