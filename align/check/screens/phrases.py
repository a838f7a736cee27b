"""Phrases of one to four words: in how many conversations they stand, and how often they win there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from align.check.screens.corpus import Laid, Numbers, Whole

LONGEST = 4  # words of a phrase; a longer one is found by its parts
_AT_ONCE = 1_000_000  # occurrences that are in memory together
_REPEATED = 3  # times that a phrase may stand in each of the most records that it may have
_BUCKETS = 2**22
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing


@dataclass(frozen=True)
class Phrases:
    """Phrases of one length, an element each.

    `place` where the phrase's first word stands for the first time; `records` and `units`, records and
    conversations with it in any response; `decided` those of the latter in which some responses have it and
    others not; of these, `wins` in which all with it are ranked above all without, and `losses` the other way
    round; `chance` how likely a win is, on average, where labels know nothing of it; `alone` those in which
    one response has it. `edge`: of its occurrences, the share at a response's beginning or at its end,
    whichever is more. `loose`: how often its commonest part (two of its words, or one of two) occurs for each
    time that the phrase does; 1 is a fixed phrase of words met nowhere else. `capital`: of its occurrences,
    the share in which each word is written with a capital.
    """

    size: int
    place: Whole
    records: Whole
    units: Whole
    decided: Whole
    wins: Whole
    losses: Whole
    chance: Numbers
    alone: Whole
    edge: Numbers
    loose: Numbers
    capital: Numbers

    def only(self, chosen: NDArray[np.bool_]) -> Phrases:
        """Some of them."""
        parts = (getattr(self, f.name)[chosen] for f in fields(self) if f.name != "size")
        return Phrases(self.size, *parts)


def phrases(laid: Laid, chance: Numbers, least: int, most: int) -> Iterator[Phrases]:
    """All phrases in at least `least` conversations and at most `most` records, for each length.

    chance [responses]: how likely each response is the best of its record by what else is known of it. No
    phrase is looked at whose parts are too rare; accidents of hashes let some through, and lose none.
    """
    begins = np.zeros(len(laid.word) + 1, np.bool_)
    begins[laid.starts] = True
    alive = np.ones(len(laid.word), np.bool_)  # places where a phrase of this length begins that may do
    pairs = np.zeros(_BUCKETS, np.int32)
    for size in range(1, LONGEST + 1):
        if size > 1:
            alive[:-1] &= alive[1:] & ~begins[1:-1] if size == 2 else alive[1:]
            alive[-1] = False
        times = np.zeros(_BUCKETS, np.int32)
        for place in _pieces(alive):
            times += np.bincount(_buckets(keys(laid, place, size)), minlength=_BUCKETS).astype(np.int32)
        pairs = times if size == 2 else pairs
        tested = 0
        for place in _pieces(alive):
            often = times[_buckets(keys(laid, place, size))]
            alive[place] = often >= least
            tested += int(((often >= least) & (often <= _REPEATED * most)).sum())
        parts = -(-tested // _AT_ONCE)
        found = [
            _counted(laid, chance, _of_part(laid, alive, times, size, most, (i, parts)), pairs, size)
            for i in range(parts)
        ]
        if found:
            together = (np.concatenate([getattr(p, f.name) for p in found]) for f in fields(Phrases)[1:])
            phrase = Phrases(size, *together)
            yield phrase.only((phrase.units >= least) & (phrase.records <= most))


def _pieces(alive: NDArray[np.bool_]) -> Iterator[Whole]:
    for start in range(0, len(alive), _AT_ONCE):
        yield start + np.flatnonzero(alive[start : start + _AT_ONCE])


def keys(laid: Laid, place: Whole, size: int) -> NDArray[np.uint64]:
    """64 bits for each phrase; of 10^8 phrases, two are the same by accident with odds of 1 to 3,000."""
    key = _spread(laid.word[place])
    for i in range(1, size):
        key = _spread_bits((key + np.uint64(1)) * _MIX + _spread(laid.word[place + i]))
    return key


def _spread(words: NDArray[np.int32]) -> NDArray[np.uint64]:
    return _spread_bits((words.astype(np.uint64) + np.uint64(1)) * _MIX)


def _spread_bits(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits ^= bits >> np.uint64(29)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    return bits ^ (bits >> np.uint64(32))


def _buckets(key: NDArray[np.uint64]) -> Whole:
    bucket: Whole = (key % np.uint64(_BUCKETS)).astype(np.int64)
    return bucket


def _of_part(
    laid: Laid,
    alive: NDArray[np.bool_],
    times: NDArray[np.int32],
    size: int,
    most: int,
    part: tuple[int, int],
) -> Whole:
    """Places of phrases that are not too common, all of one phrase in the same part (number, of how many)."""
    places = []
    for place in _pieces(alive):
        key = keys(laid, place, size)
        ours = (key >> np.uint64(40)) % np.uint64(part[1]) == np.uint64(part[0])
        places.append(place[ours & (times[_buckets(key)] <= _REPEATED * most)])
    return np.concatenate(places)


def _counted(laid: Laid, chance: Numbers, place: Whole, pairs: NDArray[np.int32], size: int) -> Phrases:
    """Count occurrences: once a response, then once a record, then once a conversation."""
    _, first, phrase = np.unique(keys(laid, place, size), return_index=True, return_inverse=True)
    count = len(first)
    times = np.bincount(phrase, minlength=count)
    owner = laid.response(place)
    starts = np.bincount(phrase, weights=place == laid.starts[owner], minlength=count)
    ends = np.bincount(phrase, weights=place + size == laid.starts[owner + 1], minlength=count)
    capital = np.logical_and.reduce([laid.capital[place + i] for i in range(size)])
    part = np.zeros(count)
    for i in range(size - 1):
        part = np.maximum(part, pairs[_buckets(keys(laid, place[first] + i, 2))])
    if size == 2:
        part = np.maximum(*(np.bincount(laid.word)[laid.word[place[first] + i]] for i in (0, 1)))
    of = _by_record(laid, chance, phrase, owner)
    begins = np.flatnonzero(changes(of.phrase) | changes(of.unit))
    net = np.sign(np.add.reduceat(of.sign, begins))
    decided = ~np.logical_and.reduceat(of.shared, begins)
    alone = np.logical_and.reduceat(of.alone, begins) & decided
    likely = np.where(decided, np.maximum.reduceat(np.where(of.shared, 0.0, of.likely), begins), 0.0)
    unit_of = of.phrase[begins]

    def how_many(which: NDArray[np.bool_]) -> Whole:
        return np.bincount(unit_of[which], minlength=count)

    apart = how_many(decided)
    return Phrases(
        size,
        place=place[first],
        records=np.bincount(of.phrase, minlength=count),
        units=np.bincount(unit_of, minlength=count),
        decided=apart,
        wins=how_many(net > 0),
        losses=how_many(net < 0),
        chance=np.bincount(unit_of, weights=likely, minlength=count) / np.maximum(1, apart),
        alone=how_many(alone),
        edge=np.maximum(starts, ends) / times,
        loose=part / times,
        capital=np.bincount(phrase, weights=capital, minlength=count) / times,
    )


@dataclass(frozen=True)
class _Occurrences:
    """Phrases in records, sorted by phrase and conversation.

    `sign` is 1 where the responses with it are above all others, -1 where they are below; `shared`: all have
    it; `alone`: one has it; `likely`: the chance of 1.
    """

    phrase: Whole
    unit: Whole
    sign: Whole
    shared: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    likely: Numbers


def _by_record(laid: Laid, chance: Numbers, phrase: Whole, owner: Whole) -> _Occurrences:
    """From occurrences in responses, `owner`, of which one may hold several."""
    pair = np.sort(phrase * len(laid.lengths) + owner)
    phrase, owner = np.divmod(pair[changes(pair)], len(laid.lengths))
    record = laid.record[owner]
    begins = np.flatnonzero(changes(phrase) | changes(record))
    have = np.diff(np.append(begins, len(record)))
    last = np.maximum.reduceat(laid.better[owner], begins)
    first = np.maximum.reduceat(laid.worse[owner], begins)
    ranked = np.minimum.reduceat(laid.better[owner], begins) > 0
    phrase, record, owner = phrase[begins], record[begins], owner[begins]
    size = laid.sizes[record]
    shared = have == size
    sign = np.where(shared | ~ranked, 0, (last == have).astype(int) - (first == have))
    likely = np.where(have == 1, chance[owner], 1 / _choose(size, have))
    unit = laid.unit[record]
    order = np.argsort(phrase * laid.units + unit, kind="stable")
    return _Occurrences(
        phrase[order], unit[order], sign[order], shared[order], (have == 1)[order], likely[order]
    )


def changes(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it; the first does."""
    return np.append(np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1])


def _choose(n: Whole, k: Whole) -> Numbers:
    """n over k."""
    top = int(n.max(initial=0)) + 1
    table = np.array([[math.comb(a, b) for b in range(top)] for a in range(top)], float)
    chosen: Numbers = table[n, k]
    return chosen
