"""The resamples that a run's intervals are taken from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from align.seeds import generator
from align.stats.bootstrap import CHUNK, Draw, Draws, Numbers


@dataclass(frozen=True, kw_only=True)
class SeededDraws(Draws):
    """Resamples that are a function of the seed, drawn and added up by torch."""

    seed: int
    number: int = 2000
    chunk: int = CHUNK  # prompts drawn at a time; with another one the draws are others

    def total(self, column: Numbers) -> float:
        """The sum of a column [prompts]."""
        return float(torch.from_numpy(column).sum())

    def parts(self, prompts: int) -> Iterator[Draw]:
        """The resamples in parts, the same ones in each call."""
        draws = generator(self.seed, "bootstrap")
        chunk = max(1, self.chunk // prompts)
        for start in range(0, self.number, chunk):
            size = min(chunk, self.number - start)
            drawn = torch.randint(prompts, (size, prompts), generator=draws)
            times = torch.zeros(size, prompts, dtype=torch.float64)
            times.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand(size, prompts))
            yield partial(_summed, times)


def known(number: float | None) -> float:
    """The number, nan where it is None: metrics are floats."""
    return float("nan") if number is None else number


def _summed(times: Tensor, table: Numbers) -> Numbers:
    return (times @ torch.from_numpy(table)).numpy()
