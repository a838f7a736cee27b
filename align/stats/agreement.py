"""How far people agree with each other on the same pairs of responses, and a model with them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from align.stats.bootstrap import Draws, Observation, means
from align.stats.estimate import Estimate


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

    agreement: Estimate  # of two labelers with each other
    model: Estimate  # of the scores with a labeler, on the same pairs
    judgements: int
    labelers: int


def agreement(verdicts: Iterable[Verdict], prompts: int, draws: Draws) -> People | None:
    """How often two labelers decide a pair alike, and how often the scores decide it like a labeler.

    A pair counts when at least two labelers decided it (a tie is no decision). Its agreement is the
    share of all couples of verdicts by different labelers that say the same; the model's, the share of
    its verdicts that the scores agree with. None where no pair counts.
    """
    pairs: dict[tuple[int, frozenset[Hashable]], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.better != verdict.worse:
            pairs.setdefault((verdict.prompt, frozenset((verdict.better, verdict.worse))), []).append(verdict)
    entries: list[Observation] = []
    counted: list[Verdict] = []
    for (prompt, _), found in pairs.items():
        couples = [a.better == b.better for a, b in combinations(found, 2) if a.labeler != b.labeler]
        if couples:
            entries.append(Observation(prompt, "people", sum(couples) / len(couples)))
            entries.append(Observation(prompt, "model", sum(v.model for v in found) / len(found)))
            counted += found
    if not entries:
        return None
    shares = means(entries, prompts, draws)
    return People(shares["people"], shares["model"], len(counted), len({v.labeler for v in counted}))
