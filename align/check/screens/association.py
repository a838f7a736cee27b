"""Which phrases win too often for chance: an exact test each, and a limit to false discoveries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from align.check.screens.corpus import Numbers, Whole


def at_least(wins: Whole, of: Whole, chance: Numbers) -> Numbers:
    """P(X >= wins) of binomial X: `of` draws, each won with `chance`, element by element.

    Of draws with unequal chances it is an upper bound with their mean, from wins >= of * chance + 1 on
    (Hoeffding, Annals of Mathematical Statistics 27, 1956).
    """
    found = np.empty(len(wins))
    logs = np.array([math.lgamma(i + 1) for i in range(int(of.max(initial=0)) + 1)])
    for i, (w, n, p) in enumerate(zip(wins.tolist(), of.tolist(), chance.tolist(), strict=True)):
        if w <= 0 or p >= 1:
            found[i] = 1.0
            continue
        if p <= 0:
            found[i] = 0.0
            continue
        x = np.arange(w, n + 1)
        terms = logs[n] - logs[x] - logs[n - x] + x * math.log(p) + (n - x) * math.log1p(-p)
        found[i] = min(1.0, float(np.exp(terms).sum()))
    return found


def discoveries(p: Numbers, least: Numbers, rate: float) -> tuple[NDArray[np.bool_], int]:
    """Which tests are discoveries, by expectation at most `rate` of them false; and how many were tested.

    Benjamini and Hochberg (1995) among the tests that could be one: those whose p, had every draw been won,
    were `least`, low enough (Tarone, Biometrics 46, 1990). `least` must not depend on who won.
    """
    tested = np.flatnonzero(least <= _testable(np.sort(least), rate))
    if not len(tested):
        return np.zeros(len(p), np.bool_), 0
    order = tested[np.argsort(p[tested], kind="stable")]
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(order) + 1) / len(tested))
    found = np.zeros(len(p), np.bool_)
    found[order[: below.max() + 1 if len(below) else 0]] = True
    return found, len(tested)


def _testable(least: Sequence[float] | Numbers, rate: float) -> float:
    """The highest rate / k at which at most k of `least`, which is sorted, are."""
    k = 1
    while np.searchsorted(least, rate / k, "right") > k:
        k += 1
    return rate / k
