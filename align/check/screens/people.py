"""Labelers, or sources, whose order is the opposite of what everybody else's labels let expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.check.screens.association import at_least
from align.check.screens.corpus import Laid, Numbers, Whole

RATE = 0.01  # that anybody is named by chance
LEAST = 10  # rankings


@dataclass(frozen=True)
class Contrary:
    """Somebody, of how many rankings' best response another was expected, and how many that should be."""

    name: str
    rankings: int
    against: int
    expected: float
    records: Whole


def contrary(names: Sequence[str | None], laid: Laid, chance: Numbers) -> list[Contrary]:
    """Whose best responses are another than length and common words let expect, too often.

    Too often is both clearly more often than these rankings let expect, and than an order drawn by lot
    would. names: who made each record. chance [responses]: as in `phrases`; it is learnt from everybody, so
    those who make most of the labels are never contrary.
    """
    people = sorted({name for name in names if name is not None})
    if len(people) < 2:
        return []
    first = laid.first[:-1]
    ranked = np.where(laid.better > 0, laid.better, np.iinfo(np.int64).max)
    best = np.minimum.reduceat(ranked, first)
    most = np.maximum.reduceat(chance, first)
    even = 1 / laid.sizes
    likeliest = np.lexsort((-chance, laid.record))[first]
    counted = (np.maximum.reduceat(laid.better, first) > best) & (most > even + 1e-9)
    against = ranked[likeliest] != best
    number = {name: i for i, name in enumerate(people)}
    who = np.array([-1 if name is None else number[name] for name in names])
    found = []
    for i, name in enumerate(people):
        mine = np.flatnonzero((who == i) & counted)
        count = np.array([len(mine)])
        if len(mine) < LEAST:
            continue
        wrong = np.array([int(against[mine].sum())])
        by_model = at_least(wrong, count, np.array([1 - most[mine].mean()]))[0]
        by_lot = at_least(wrong, count, np.array([1 - even[mine].mean()]))[0]
        if max(by_model * len(people), by_lot) <= RATE:
            records = np.flatnonzero(who == i)
            found.append(Contrary(name, len(mine), int(wrong[0]), float((1 - most[mine]).sum()), records))
    return found
