"""Win rates and Bradley-Terry ratings from blind comparisons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from evalica import Winner, bradley_terry
from numpy.typing import NDArray

from align.stats.bootstrap import TAIL, Draws, Numbers, Observation, means
from align.stats.estimate import Estimate
from labeling.figures.shapes import Pairing, Policies, Policy
from labeling.language import gettext

_RESAMPLES = 500  # ratings are solved anew for each
_VALUES = {"first": 1.0, "second": 0.0, "tie": 0.5, "both_bad": 0.5}
_TURNED = {"first": "second", "second": "first"}
_WINNERS = {"first": Winner.X, "second": Winner.Y, "tie": Winner.Draw, "both_bad": Winner.Draw}

Match = tuple[int, int, Winner]  # two policies, by their numbers, and which was better


class PolicyVerdict(NamedTuple):
    """One person's verdict between two policies: "first", "second", "tie" or "both_bad"."""

    prompt: int
    first: str
    second: str
    verdict: str


def policies(comparisons: Iterable[PolicyVerdict], unnamed: int = 0) -> Policies:
    """Win rates by pair and by policy, and ratings, best first; "both bad" is a tie in both."""
    comparisons, prompts = _numbered(comparisons)
    rates = _win_rates(comparisons, prompts)
    names = sorted({name for c in comparisons for name in (c.first, c.second)})
    found, unrated = ratings(comparisons, names, prompts)
    rows = [
        Policy(name=name, comparisons=rates[name].count, win_rate=rates[name], rating=rating)
        for name, rating in zip(names, found, strict=True)
    ]
    rows.sort(key=lambda row: (-(row.rating.value or 0.0), -(row.win_rate.value or 0.0), row.name))
    verdicts: Counter[tuple[str, str, str]] = Counter()
    for _, first, second, verdict in comparisons:
        verdicts[first, second, verdict] += 1
        verdicts[second, first, _TURNED.get(verdict, verdict)] += 1
    pairings = [
        Pairing(
            first=first,
            second=second,
            wins=verdicts[first, second, "first"],
            ties=verdicts[first, second, "tie"],
            both_bad=verdicts[first, second, "both_bad"],
            losses=verdicts[first, second, "second"],
            win_rate=rates[first, second],
        )
        for first, second in combinations([row.name for row in rows], 2)
        if (first, second) in rates
    ]
    return Policies(
        comparisons=len(comparisons), unnamed=unnamed, unrated=unrated, policies=rows, pairings=pairings
    )


def _win_rates(comparisons: Sequence[PolicyVerdict], prompts: int) -> dict[Hashable, Estimate]:
    """Of each policy, and of each against each other one."""
    entries = []
    for prompt, first, second, verdict in comparisons:
        value = _VALUES[verdict]
        shares = {(first, second): value, (second, first): 1 - value, first: value, second: 1 - value}
        entries += [Observation(prompt, group, share) for group, share in shares.items()]
    return means(entries, prompts, Draws())


def ratings(
    comparisons: Sequence[PolicyVerdict], names: Sequence[str], prompts: int
) -> tuple[list[Estimate], str | None]:
    """The Bradley-Terry ratings of policies, and why there are none.

    400 log10 of the strength, with mean 0: with 400 points more a policy is preferred ten times as often.
    They exist where a chain of wins or ties leads from every policy to every other one (Ford 1957). The
    interval is a bootstrap's over prompts; it is left out where more than 2.5% of the draws have no ratings.
    """
    nothing = [Estimate() for _ in names]
    if not comparisons:
        return nothing, None
    place = {name: i for i, name in enumerate(names)}
    cells = Counter((c.prompt, (place[c.first], place[c.second], _WINNERS[c.verdict])) for c in comparisons)
    matches = list(dict.fromkeys(match for _, match in cells))
    column = {match: i for i, match in enumerate(matches)}
    counts = np.zeros((prompts, len(matches)))
    for (prompt, match), number in cells.items():
        counts[prompt, column[match]] = number
    values = _solve(matches, counts.sum(0), len(names))
    if values is None:
        return nothing, gettext(
            "some policies are not yet linked to all the others by wins and losses both ways"
        )
    parts = Draws(_RESAMPLES).parts(prompts)
    drawn = [_solve(matches, row, len(names)) for draw in parts for row in draw(counts)]
    known = np.array([row for row in drawn if row is not None])
    sure = len(known) >= (1 - TAIL) * _RESAMPLES and (counts.sum(1) > 0).sum() > 1
    low, high = np.quantile(known, (TAIL, 1 - TAIL), axis=0) if sure else (None, None)
    involved = [[place[name] in match[:2] for match in matches] for name in names]
    return [
        Estimate(
            value=float(values[i]),
            low=None if low is None else float(low[i]),
            high=None if high is None else float(high[i]),
            count=int(counts[:, involved[i]].sum()),
            prompts=int(counts[:, involved[i]].any(1).sum()),
        )
        for i in range(len(names))
    ], None


def _solve(matches: Sequence[Match], weights: Numbers, number: int) -> Numbers | None:
    if not _linked(matches, weights, number):
        return None
    first, second, winners = zip(*matches, strict=True)
    index = pd.RangeIndex(number)
    solved = bradley_terry(first, second, winners, index, weights.tolist(), tolerance=1e-9, limit=10_000)
    values = 400 * np.log10(solved.scores.sort_index().to_numpy(dtype=float))
    return values - values.mean() if np.isfinite(values).all() else None


def _linked(matches: Sequence[Match], weights: Numbers, number: int) -> bool:
    beats: NDArray[np.bool_] = np.eye(number, dtype=bool)
    for (first, second, winner), weight in zip(matches, weights, strict=True):
        if weight > 0:
            beats[first, second] |= winner != Winner.Y
            beats[second, first] |= winner != Winner.X
    for _ in range(math.ceil(math.log2(max(2, number)))):
        beats = beats @ beats
    return bool(beats.all())


def _numbered(comparisons: Iterable[PolicyVerdict]) -> tuple[list[PolicyVerdict], int]:
    """The same with prompts numbered without gaps, and how many there are."""
    numbers: dict[int, int] = {}
    found = [c._replace(prompt=numbers.setdefault(c.prompt, len(numbers))) for c in comparisons]
    return found, len(numbers)
