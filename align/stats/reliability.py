"""How often each labeler orders two responses right, from where labelers judge the same pair.

The one-coin model of Dawid and Skene (Applied Statistics 28, 1979), for comparisons: each pair of responses
has a right order, and a labeler who decides it says that order with probability a, the opposite one with
1 - a. A tie decides nothing. With s = 1 where a vote names the pair's first response, -1 where its second,
the expected right order of a pair is, by Bayes,

    m = tanh(1/2 sum over its votes of s log(a / (1 - a)))                       (E)
    a = the mean over the labeler's pairs of (1 + s m) / 2                       (M)

until nothing changes; where the right order is known, m is 1 or -1. It begins with everybody alike, which is
the majority's order. CrowdBT (Chen et al., WSDM 2013) has the same a, called eta, around Bradley and Terry's
scores; with two to five people a task these scores stand on too little, and a labeler needs none of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from align.stats.bootstrap import TAIL, Numbers, Whole
from align.stats.estimate import Estimate
from align.stats.rankings import Ranks

DRAWS = 200  # of prompts, for intervals
PRIOR = 2.0  # comparisons that each labeler is taken to have judged as all of them together do
_START = 0.75  # any number above one half: people are taken to be right more often than wrong
_SURE = 1e-9  # how near to 0 and 1 a probability comes
_ROUNDS = 2000
_BEST = 0.99
_AT_ONCE = 2**23  # numbers in an array of several draws


class Answer(NamedTuple):
    """One ranking; a prompt is what is drawn for intervals, and responses are told apart by their keys."""

    prompt: int
    responses: tuple[int, ...]
    ranks: Ranks
    labeler: str | None  # None: this order is known to be right
    shown: tuple[int, ...] | None = None  # the place at which the labeler saw each response
    lengths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Votes:
    """What is said of pairs that two or more labelers judged, or whose order is known.

    `prompt`, `known` [pairs]: known is 1 or -1 as the pair's first or second response is the better one, 0
    where it is not known. The others have an element a vote: `sign` like `known`, 0 for a tie; `first` and
    `longer`, which response was shown first and which is longer, 0 where that is not said; `gap`, how many
    ranks lie between the two.
    """

    labelers: tuple[str, ...]
    prompt: Whole
    known: Numbers
    pair: Whole
    labeler: Whole
    sign: Numbers
    first: Numbers
    longer: Numbers
    gap: Numbers

    @property
    def table(self) -> Numbers:
        """The votes [pairs, labelers]; 0 where there is none. Who said both orders has said neither."""
        table = np.zeros((len(self.prompt), len(self.labelers)))
        np.add.at(table, (self.pair, self.labeler), self.sign)
        return np.sign(table)


def votes(answers: Iterable[Answer]) -> Votes:
    """Lay answers out pair by pair; labelers are in the order of their names."""
    found = list(answers)
    several = Counter(answer.prompt for answer in found)
    found = [answer for answer in found if several[answer.prompt] > 1]
    names = tuple(sorted({answer.labeler for answer in found if answer.labeler is not None}))
    number: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    pairs: dict[tuple[int, int, int], int] = {}
    rows = [
        (pairs.setdefault(pair, len(pairs)), number.get(answer.labeler, -1), *said)
        for answer in found
        for pair, said in _pairs(answer)
    ]
    prompts: dict[int, int] = {}
    prompt = np.array([prompts.setdefault(prompt, len(prompts)) for prompt, _, _ in pairs], np.int64)
    table = np.array(rows, np.float64).reshape(len(rows), 6)
    pair, labeler = table[:, :2].astype(np.int64).T
    known = np.zeros(len(pairs))
    np.add.at(known, pair[labeler < 0], table[labeler < 0, 2])
    seen = np.unique(np.column_stack([pair, labeler]), axis=0)[:, 0]  # once a labeler, or a known order
    shared = np.bincount(seen, minlength=len(pairs)) > 1
    kept = (labeler >= 0) & shared[pair]
    place = np.cumsum(shared) - 1
    return Votes(
        names,
        prompt[shared],
        np.sign(known[shared]),
        place[pair[kept]],
        labeler[kept],
        *table[kept, 2:].T,
    )


def _pairs(answer: Answer) -> Iterable[tuple[tuple[int, int, int], tuple[float, ...]]]:
    """The pairs that an answer ranks, and of each the sign, what was first, what is longer, and the gap."""
    keys, ranks, shown, lengths = answer.responses, answer.ranks, answer.shown, answer.lengths
    for i, j in combinations(range(len(keys)), 2):
        one, other = ranks[i], ranks[j]
        if one is None or other is None or keys[i] == keys[j]:
            continue
        turn = 1 if keys[i] < keys[j] else -1
        first = turn * _sign(shown[j] - shown[i]) if shown else 0
        longer = turn * _sign(lengths[i] - lengths[j]) if lengths else 0
        pair = (answer.prompt, min(keys[i], keys[j]), max(keys[i], keys[j]))
        yield pair, (turn * _sign(other - one), first, longer, abs(one - other))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


@dataclass(frozen=True)
class LabelerReliability:
    """A labeler's share of comparisons ordered right.

    `accuracy.count` are comparisons that others judged too, or whose order is known; without a value there
    are none, or they cannot say which of the labelers is right.
    """

    name: str
    accuracy: Estimate

    @property
    def at_chance(self) -> bool:
        """Whether they may be guessing, and are not far above it; not where too little is known."""
        value, low, high = self.accuracy.value, self.accuracy.low, self.accuracy.high
        if value is None or low is None or high is None or self.reversed:
            return False
        return low <= 0.5 and value < 0.6 and high < 0.75

    @property
    def reversed(self) -> bool:
        """Whether they order against the others, clearly more often than guessing would."""
        value, high = self.accuracy.value, self.accuracy.high
        return value is not None and high is not None and high < 0.5 and value < 0.4


@dataclass(frozen=True)
class Reliability:
    """Of all labelers, and how often each way of putting their votes together is expected to be right.

    `one` is a single vote, `majority` that of all votes on a pair (an even split is half right), `weighted`
    the model's own order. All are means over pairs that two or more labelers decided.
    """

    labelers: tuple[LabelerReliability, ...] = ()
    one: float | None = None
    majority: float | None = None
    weighted: float | None = None
    pairs: int = 0  # that two or more labelers decided
    known: int = 0  # whose order is known, and which somebody decided

    @property
    def is_known(self) -> bool:
        """Whether anybody's is."""
        return any(labeler.accuracy.value is not None for labeler in self.labelers)

    def of(self, name: str) -> float | None:
        """A labeler's accuracy."""
        return next((one.accuracy.value for one in self.labelers if one.name == name), None)


def reliability(found: Votes, draws: int = DRAWS) -> Reliability:
    """Each labeler's accuracy, with the percentile interval of a bootstrap over prompts.

    Without draws there are no intervals, nor has a labeler with one prompt alone one. An interval is at least
    as wide as that of Clopper and Pearson (1934) on its side for as many prompts, all right or all wrong.
    """
    table = found.table
    decided = np.abs(table).sum(1)
    counts = (decided > 1) | ((decided > 0) & (found.known != 0))
    table, known, prompt = table[counts], found.known[counts], found.prompt[counts]
    ways, way = _ways(table, known)
    weight = np.bincount(way, minlength=len(ways)).astype(float)[None, :]
    start = np.full((1, len(found.labelers)), _START)
    value = fit(ways[:, :-1], ways[:, -1], weight, start, 1e-10)
    drawn = _drawn(ways, way, prompt, value, draws)
    sure = measurable(table, known)
    labelers = []
    for i, name in enumerate(found.labelers):
        voted = table[:, i] != 0
        prompts = len(np.unique(prompt[voted]))
        if not sure[i]:
            accuracy = Estimate(count=int(voted.sum()), prompts=prompts)
        else:
            low, high = _interval(drawn[:, i], prompts)
            accuracy = Estimate(float(value[0, i]), low, high, int(voted.sum()), prompts)
        labelers.append(LabelerReliability(name, accuracy))
    several = decided[counts] > 1
    together = _together(ways, np.bincount(way[several], minlength=len(ways)), value[0])
    known_pairs = int((known != 0).sum())
    if not sure.any():
        together = (None, None, None)
    return Reliability(tuple(labelers), *together, int(several.sum()), known_pairs)


def expected_order(table: Numbers, known: Numbers, accuracy: Numbers) -> Numbers:
    """(E): the right order of each pair as the votes [pairs, labelers] say, from -1 to 1 [.., pairs]."""
    return np.where(known != 0, known, np.tanh(vote_strength(accuracy) @ table.T))


def vote_strength(accuracy: Numbers) -> Numbers:
    """Half the log odds that a vote is right."""
    sure = np.clip(accuracy, _SURE, 1 - _SURE)
    strength: Numbers = np.log(sure / (1 - sure)) / 2
    return strength


def fit(
    table: Numbers, known: Numbers, weight: Numbers, start: Numbers, tolerance: float, prior: float = PRIOR
) -> Numbers:
    """Accuracies [draws, labelers] from votes [pairs, labelers], each pair weighing weight [draws, pairs].

    start: [draws, labelers], where it begins. prior: see PRIOR; 0 is the likelihood's own maximum.
    """
    count = weight @ np.abs(table)
    accuracy = start
    for _ in range(_ROUNDS):
        ahead = expected_order(table, known, accuracy)
        right = (count + (weight * ahead) @ table) / 2
        everybody = (right.sum(1, keepdims=True) + 1) / (count.sum(1, keepdims=True) + 2)
        new = (right + prior * everybody) / np.maximum(count + prior, _SURE)
        done = np.abs(new - accuracy).max(initial=0.0) < tolerance
        accuracy = new
        if done:
            break
    return accuracy


def measurable(table: Numbers, known: Numbers) -> NDArray[np.bool_]:
    """Whose accuracy the votes determine [labelers].

    Two labelers' agreement gives the product of (2 a - 1) of both. Products along pairs of labelers determine
    each factor where these pairs close a circle of odd length, as three people do who all share tasks, or
    where somebody among them has judged a pair whose order is known.
    """
    cast = np.abs(table)
    beside = (cast.T @ cast) > 0
    anchored = (cast.T @ np.abs(known)) > 0
    sure = np.zeros(len(beside), np.bool_)
    side = np.zeros(len(beside), np.int64)  # 1 and -1: the two sides of a part without an odd circle
    for start in range(len(beside)):
        if side[start]:
            continue
        side[start], part = 1, [start]
        odd = False
        for one in part:  # which grows
            for other in np.flatnonzero(beside[one]).tolist():
                if other != one and not side[other]:
                    side[other] = -side[one]
                    part.append(other)
                odd |= other != one and side[other] == side[one]
        sure[part] = odd or anchored[part].any()
    return sure


def _ways(table: Numbers, known: Numbers) -> tuple[Numbers, Whole]:
    """The different rows of votes with the known order, each once, and which one each pair has.

    A pair's responses have no order of their own, so a row and its opposite are the same.
    """
    both = np.column_stack([table, known]).astype(np.int8)
    leading = both[np.arange(len(both)), np.argmax(both != 0, axis=1)] if len(both) else np.empty(0, np.int8)
    different, way = np.unique(both * leading[:, None], axis=0, return_inverse=True)
    return different.astype(float), way.reshape(-1)


def _drawn(ways: Numbers, way: Whole, prompt: Whole, value: Numbers, draws: int) -> Numbers:
    """Accuracies [draws, labelers] where prompts are drawn with replacement, the same ones each time."""
    random = np.random.default_rng(0)
    prompts = np.unique(prompt, return_inverse=True)[1]
    size = int(prompts.max(initial=-1)) + 1
    parts = [np.empty((0, value.shape[1]))]
    step = max(1, _AT_ONCE // max(1, len(ways)))
    for start in range(0, draws if size else 0, step):
        some = range(start, min(start + step, draws))
        times = [np.bincount(random.integers(size, size=size), minlength=size)[prompts] for _ in some]
        weight = np.array([np.bincount(way, number, len(ways)) for number in times])
        parts.append(fit(ways[:, :-1], ways[:, -1], weight, np.repeat(value, len(weight), axis=0), 1e-4))
    return np.concatenate(parts)


def _interval(drawn: Numbers, prompts: int) -> tuple[float | None, float | None]:
    if prompts < 2 or not len(drawn):
        return None, None
    low, high = np.quantile(drawn, (TAIL, 1 - TAIL))
    reach = TAIL ** (1 / prompts)
    return min(float(low), reach), max(float(high), 1 - reach)


def _together(
    ways: Numbers, number: Whole, accuracy: Numbers
) -> tuple[float | None, float | None, float | None]:
    """How often one vote, the majority, and the model are expected to be right; `number` of pairs a row."""
    ways, number = ways[number > 0, :-1], number[number > 0]
    if not len(ways):
        return None, None, None
    cast = np.abs(ways)
    one = float(number @ (cast @ accuracy) / (number @ cast.sum(1)))
    majority = np.array([majority_right(accuracy[row != 0]) for row in ways])
    ahead = np.abs(expected_order(ways, np.zeros(len(ways)), accuracy))
    return one, float(number @ majority / number.sum()), float(number @ (1 + ahead) / 2 / number.sum())


def majority_right(accuracy: Sequence[float] | Numbers) -> float:
    """How often most of some independent votes are right (Condorcet); an even split is half right."""
    chances = np.ones(1)  # of 0, 1, … right votes
    for one in accuracy:
        chances = np.convolve(chances, (1 - one, one))
    size = len(chances) - 1
    right = np.arange(size + 1)
    return float(chances[2 * right > size].sum() + chances[2 * right == size].sum() / 2)


def weight_of(accuracy: float) -> float:
    """A label's weight in training: log(a / (1 - a)), and 0 below one half.

    With this weight a vote counts in (E), and no other way of adding up independent votes is right more
    often (Nitzan and Paroush, International Economic Review 23, 1982). From _BEST on it grows no further: so
    good an accuracy is not known so well, and nobody is to count for all others by agreeing always.
    """
    a = min(max(accuracy, 0.5), _BEST)
    return math.log(a / (1 - a))
