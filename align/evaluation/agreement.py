"""What a reward model's accuracy is to be held against: people among themselves, length alone, rank order."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from align.evaluation.bootstrap import Entry, Share, means
from align.objectives.bradley_terry import Ranks, comparisons


def kendall_tau_b(scores: Sequence[float], ranks: Ranks) -> float:
    """Kendall's tau-b between scores and ranks (1 is best): 1 is the same order, -1 the reverse.

    (concordant - discordant) / sqrt((pairs - tied ranks) (pairs - tied scores)), Kendall 1945, over the
    responses that have a rank. 0 where all scores are equal; nan where the ranks decide nothing.
    """
    ranked = [(rank, score) for rank, score in zip(ranks, scores, strict=True) if rank is not None]
    balance = by_rank = by_score = 0
    for (rank, score), (other_rank, other_score) in combinations(ranked, 2):
        preferred = (other_rank > rank) - (other_rank < rank)
        scored = (score > other_score) - (score < other_score)
        balance += preferred * scored
        by_rank += preferred != 0
        by_score += scored != 0
    if not by_rank:
        return float("nan")
    return balance / math.sqrt(by_rank * by_score) if by_score else 0.0


@dataclass(frozen=True)
class LengthModel:
    """The model that knows nothing but which response is longer."""

    longer_wins: bool
    training: float  # its accuracy on the training comparisons; nan where there are none

    def says(self, difference: int) -> float:
        """1 where it takes the better response for the better one, from how much longer that one is."""
        if not difference:
            return 0.5
        return float((difference > 0) == self.longer_wins)


def fit_length_model(lengths: Iterable[Sequence[int]], ranks: Iterable[Ranks]) -> LengthModel:
    """Whether the longer or the shorter response wins more training comparisons; equal lengths are half."""
    right, total = 0.0, 0
    for one, ranking in zip(lengths, ranks, strict=True):
        for better, worse in comparisons(ranking):
            right += 0.5 + 0.5 * ((one[better] > one[worse]) - (one[better] < one[worse]))
            total += 1
    if not total:
        return LengthModel(True, float("nan"))
    return LengthModel(2 * right >= total, max(right, total - right) / total)


class Verdict(NamedTuple):
    """One labeler's decision between two responses to a prompt."""

    prompt: int
    labeler: str
    better: Hashable  # what tells the response from others, such as its text
    worse: Hashable
    model: float  # 1 where the scores say the same, 0.5 where they are equal, else 0


@dataclass(frozen=True)
class People:
    """Agreement on pairs of responses that several labelers judged; every pair weighs the same."""

    agreement: Share  # of two labelers with each other
    model: Share  # of the scores with a labeler, on the same pairs
    judgements: int
    labelers: int


def agreement(verdicts: Iterable[Verdict], prompts: int, seed: int) -> People | None:
    """How often two labelers decide a pair alike, and how often the scores decide it like a labeler.

    A pair counts when at least two labelers decided it (a tie is no decision). Its agreement is the
    share of all couples of verdicts by different labelers that say the same; the model's, the share of
    its verdicts that the scores agree with. None where no pair counts.
    """
    pairs: dict[tuple[int, frozenset[Hashable]], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.better != verdict.worse:
            pairs.setdefault((verdict.prompt, frozenset((verdict.better, verdict.worse))), []).append(verdict)
    entries: list[Entry] = []
    counted: list[Verdict] = []
    for (prompt, _), found in pairs.items():
        couples = [a.better == b.better for a, b in combinations(found, 2) if a.labeler != b.labeler]
        if couples:
            entries.append(Entry(prompt, "people", sum(couples) / len(couples)))
            entries.append(Entry(prompt, "model", sum(v.model for v in found) / len(found)))
            counted += found
    if not entries:
        return None
    shares = means(entries, prompts, seed)
    return People(shares["people"], shares["model"], len(counted), len({v.labeler for v in counted}))
