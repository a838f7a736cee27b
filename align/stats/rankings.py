"""What rankings say: their comparisons, how far two orders agree, and what length alone predicts.

Ranks: 1 is best, equal numbers are ties, None is unranked and takes no part. Plain Python, no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

Ranks = Sequence[int | None]


def comparisons(ranks: Ranks) -> list[tuple[int, int]]:
    """List the index pairs (better, worse) that the ranks decide."""
    ranked = [(rank, index) for index, rank in enumerate(ranks) if rank is not None]
    return [(i, j) if a < b else (j, i) for (a, i), (b, j) in combinations(ranked, 2) if a != b]


def ties(ranks: Ranks) -> list[tuple[int, int]]:
    """List the index pairs (i, j), i < j, that have the same rank."""
    ranked = [(rank, index) for index, rank in enumerate(ranks) if rank is not None]
    return [(i, j) for (a, i), (b, j) in combinations(ranked, 2) if a == b]


def disagreement(*rankings: Ranks) -> tuple[float, int]:
    """How many pairs of responses rankings order differently, and of how many, over all couples of rankings.

    Pairs that both ranked count: an opposite order is 1, a tie against an order one half.
    """
    apart, pairs = 0.0, 0
    for one, other in combinations(rankings, 2):
        for (a, c), (b, d) in combinations(zip(one, other, strict=True), 2):
            if a is not None and b is not None and c is not None and d is not None:
                pairs += 1
                apart += abs(_sign(a - b) - _sign(c - d)) / 2
    return apart, pairs


def kendall_tau_b(scores: Sequence[float], ranks: Ranks) -> float:
    """Kendall's tau-b between scores and ranks (1 is best): 1 is the same order, -1 the reverse.

    (concordant - discordant) / sqrt((pairs - tied ranks) (pairs - tied scores)), Kendall 1945, over the
    responses that have a rank. 0 where all scores are equal; nan where the ranks decide nothing.
    """
    ranked = [(rank, score) for rank, score in zip(ranks, scores, strict=True) if rank is not None]
    balance = by_rank = by_score = 0
    for (rank, score), (other_rank, other_score) in combinations(ranked, 2):
        preferred, scored = _sign(other_rank - rank), _sign(score - other_score)
        balance += preferred * scored
        by_rank += preferred != 0
        by_score += scored != 0
    if not by_rank:
        return float("nan")
    return balance / math.sqrt(by_rank * by_score) if by_score else 0.0


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


@dataclass(frozen=True)
class Wins:
    """In how many comparisons the longer, or the shorter, response was preferred; equal: equally long."""

    longer: int = 0
    shorter: int = 0
    equal: int = 0

    @property
    def comparisons(self) -> int:
        """All of them."""
        return self.longer + self.shorter + self.equal

    def accuracy(self, rule: str) -> float | None:
        """Of always saying "longer" or "shorter"; equal lengths count one half, None without comparisons."""
        if not self.comparisons:
            return None
        right = self.longer if rule == "longer" else self.shorter
        return (right + 0.5 * self.equal) / self.comparisons


def length_wins(rankings: Iterable[tuple[Ranks, Sequence[int]]]) -> Wins:
    """Count over rankings given as (ranks, lengths of the responses)."""
    longer = shorter = equal = 0
    for ranks, lengths in rankings:
        for better, worse in comparisons(ranks):
            longer += lengths[better] > lengths[worse]
            shorter += lengths[better] < lengths[worse]
            equal += lengths[better] == lengths[worse]
    return Wins(longer, shorter, equal)


@dataclass(frozen=True)
class LengthModel:
    """The model that knows nothing but which response is longer."""

    longer_wins: bool
    training: float | None  # its accuracy on the comparisons that it was fitted on; None where there are none

    @property
    def rule(self) -> str:
        """What it always takes: the "longer" or the "shorter" response."""
        return "longer" if self.longer_wins else "shorter"

    def says(self, difference: int) -> float:
        """1 where it takes the better response for the better one, from how much longer that one is."""
        if not difference:
            return 0.5
        return float((difference > 0) == self.longer_wins)


def fit_length_model(wins: Wins) -> LengthModel:
    """Whether the longer or the shorter response wins more often; the longer one where they are even."""
    longer = wins.longer >= wins.shorter
    return LengthModel(longer, wins.accuracy("longer" if longer else "shorter"))


@dataclass(frozen=True)
class LengthBias:
    """How far a response's length alone predicts the label."""

    unit: str  # "tokens", or "characters" where there is no tokenizer
    train: Wins
    held_out: Wins
    rule: str  # "longer" or "shorter": what won more often in training
    accuracy: float | None  # of the rule, on held-out comparisons, or where there are none on training ones
    measured_on: str  # "held_out" or "train"


def length_bias(train: Wins, held_out: Wins, unit: str = "tokens") -> LengthBias | None:
    """Fit the rule on training comparisons and measure it on held-out ones; None without comparisons."""
    if not (train.comparisons or held_out.comparisons):
        return None
    rule = fit_length_model(train if train.comparisons else held_out).rule
    side, wins = ("held_out", held_out) if held_out.comparisons else ("train", train)
    return LengthBias(unit, train, held_out, rule, wins.accuracy(rule), side)
