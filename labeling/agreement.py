"""How far two rankings of the same responses agree. Plain numbers, no database."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Ranks = Sequence[int | None]


def disagreement(one: Ranks, other: Ranks) -> tuple[float, int]:
    """Over the pairs of responses that both ranked: how many they order differently, and how many there are.

    An opposite order counts 1, a tie against an order one half.
    """
    apart, pairs = 0.0, 0
    for i, j in combinations(range(len(one)), 2):
        a, b, c, d = one[i], one[j], other[i], other[j]
        if a is None or b is None or c is None or d is None:
            continue
        pairs += 1
        apart += abs(_sign(a - b) - _sign(c - d)) / 2
    return apart, pairs


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
