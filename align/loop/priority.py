"""How much a ranking of some responses would teach: what people do first. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import pvariance


def margin(scores: Sequence[float]) -> float:
    """1 / (1 + gap between the two best scores): 1 where the reward model cannot tell them apart."""
    best, second = sorted(scores, reverse=True)[:2]
    return 1 / (1 + best - second)


def disagreement(scores: Sequence[Sequence[float]]) -> float:
    """The mean over pairs of responses of the variance, over reward models, of P(one beats the other).

    scores: for each reward model those of the same responses. Ensemble disagreement as in arXiv 1706.03741,
    section 2.2.4; P is Bradley and Terry's. From 0, where all agree, to 1/4.
    """
    pairs = list(combinations(range(len(scores[0])), 2))
    return sum(pvariance([_beats(own[i], own[j]) for own in scores]) for i, j in pairs) / len(pairs)


def _beats(one: float, other: float) -> float:
    """The logistic function of the difference, without overflow."""
    return 0.5 * (1 + math.tanh((one - other) / 2))
