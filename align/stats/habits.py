"""What a labeler's mistakes have in common: places on the screen, length, ties, ranks next to each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.stats.bootstrap import Draws, Numbers, Tally
from align.stats.estimate import Estimate
from align.stats.reliability import Reliability, Votes, vote_strength


@dataclass(frozen=True)
class Habits:
    """One labeler's, on pairs that others judged too or whose order is known.

    `first_shown`, `longer`: by how much more often than expected they prefer the response that was shown
    first, or the longer one; from -1 to 1, 0 is no leaning. Expected is what their reliability and the
    others' votes say, so that mistakes without a direction are none. `ties`: by how much more often than the
    others they tie the same pairs. `next_to`, `apart`: their accuracy where their own ranks differ by one,
    and by more.
    """

    name: str
    first_shown: Estimate = Estimate()
    longer: Estimate = Estimate()
    ties: Estimate = Estimate()
    next_to: Estimate = Estimate()
    apart: Estimate = Estimate()


def habits(votes: Votes, found: Reliability, draws: Draws) -> list[Habits]:
    """Of the labelers whose reliability is known; intervals by a bootstrap over prompts."""
    accuracy = np.array([0.5 if (a := one.accuracy.value) is None else a for one in found.labelers])
    known = [one.accuracy.value is not None for one in found.labelers]
    prompts = int(votes.prompt.max(initial=-1)) + 1
    tally = Tally(prompts)
    others, mine = _by_others(votes, accuracy), votes.sign
    decided = (mine != 0) & (others != 0)
    expected = (2 * accuracy[votes.labeler] - 1) * others
    for name, way in (("first_shown", votes.first), ("longer", votes.longer)):
        leaning = (mine - expected) * way / 2
        _add(tally, name, votes, decided & (way != 0), leaning, np.ones(len(mine)))
    several, tied = _others_ties(votes)
    _add(tally, "ties", votes, several, (mine == 0) - tied, np.ones(len(mine)))
    right = (
        others**2 + mine * others
    ) / 2  # over others² the mean is a, where others' order is expected right
    _add(tally, "next_to", votes, decided & (votes.gap == 1), right, others**2)
    _add(tally, "apart", votes, decided & (votes.gap > 1), right, others**2)
    means = tally.estimates(draws)
    names = [name for name in Habits.__dataclass_fields__ if name != "name"]
    return [
        Habits(labeler, **{name: _of(means, name, i) for name in names})
        for i, labeler in enumerate(votes.labelers)
        if known[i]
    ]


def _by_others(votes: Votes, accuracy: Numbers) -> Numbers:
    """The right order of each vote's pair as the other labelers say it, from -1 to 1; known ones as known."""
    table, strength = votes.table, vote_strength(accuracy)
    own = table[votes.pair, votes.labeler] * strength[votes.labeler]
    right = votes.known[votes.pair]
    return np.where(right != 0, right, np.tanh((table @ strength)[votes.pair] - own))


def _others_ties(votes: Votes) -> tuple[NDArray[np.bool_], Numbers]:
    """For each vote, whether others voted on its pair, and the share of them that tied it."""
    number = np.bincount(votes.pair, minlength=len(votes.prompt))[votes.pair] - 1
    tied = votes.sign == 0
    of_others = np.bincount(votes.pair, tied, len(votes.prompt))[votes.pair] - tied
    return number > 0, of_others / np.maximum(number, 1)


def _add(
    tally: Tally, name: str, votes: Votes, chosen: NDArray[np.bool_], value: Numbers, weight: Numbers
) -> None:
    for i in range(len(votes.labelers)):
        mine = chosen & (votes.labeler == i)
        prompt = votes.prompt[votes.pair[mine]]
        tally.add((name, i), prompt, value[mine], weight[mine], int(mine.sum()), bounds=None)


def _of(means: Mapping[Hashable, Estimate], name: str, labeler: int) -> Estimate:
    """A mean; an accuracy ends at 0 and 1, which the ratio of two sums may pass."""
    found = means.get((name, labeler), Estimate())
    if name not in ("next_to", "apart"):
        return found
    value, low, high = (
        None if x is None else min(max(x, 0.0), 1.0) for x in (found.value, found.low, found.high)
    )
    return Estimate(value, low, high, found.count, found.prompts)
