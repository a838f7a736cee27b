"""Phrases of one to four words: in how many conversations they stand, and how often they win there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from align.check.screens.corpus import Laid, Numbers, Whole

LONGEST = 4  # words of a phrase; a longer one is found by its parts
_AT_ONCE = 4_000_000  # occurrences that are sorted together
_BUCKETS = 2**22
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing


@dataclass(frozen=True)
class Phrases:
    """Phrases of one length, an element each.

    `place` where the phrase's first word stands for the first time; `records` and `units`, records and
    conversations with it in any response; `decided` those of the latter in which some responses have it and others not; of these, `wins` in which all
    with it are ranked above all without, and `losses` the other way round; `chance` how likely a win is, on
    average, where labels know nothing of it.
    `alone`: the decided ones in which one response has it. `edge`: of its occurrences, the share at a
    response's beginning or at its end, whichever is more. `loose`: how often its commonest part occurs (two of
    its words, or one of two) for each time that the phrase does; 1 is a fixed phrase of words met nowhere else.
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

    def only(self, chosen: NDArray[np.bool_]) -> Phrases:
        """Some of them."""
        parts = (getattr(self, f.name)[chosen] for f in fields(self) if f.name != "size")
        return Phrases(self.size, *parts)


def phrases(laid: Laid, chance: Numbers, least: int, most: int) -> Iterator[Phrases]:
    """All phrases in at least `least` conversations and at most `most` records, for each length.

    chance [responses]: how likely each response is the best of its record by what else is known of it.
    """
    common = np.bincount(laid.word)
    place = np.flatnonzero(common[laid.word] >= least)
    found = _Occurrences(place, _spread(laid.word[place]), np.zeros(len(place), np.int64))
    response = np.repeat(np.arange(len(laid.starts) - 1), laid.lengths)
    for size in range(1, LONGEST + 1):
        if size > 1:
            found = _longer(laid, response, found, counts, size)
        bucket = (found.key % np.uint64(_BUCKETS)).astype(np.int64)
        counts = np.bincount(bucket, minlength=_BUCKETS)[bucket]
        often = counts >= least
        found, counts = found.only(often), counts[often]
        parts = [
            _counted(laid, chance, response, found.only(part), size, least, most)
            for part in _parts(found.key)
        ]
        if parts:
            together = [np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Phrases)[1:]]
            yield Phrases(size, *together)


@dataclass(frozen=True)
class _Occurrences:
    """Of phrases of one length: where the first word stands, what the phrase is, and `Phrases.loose` in times."""

    place: Whole
    key: NDArray[np.uint64]
    part: Whole

    def only(self, chosen: NDArray[np.generic]) -> _Occurrences:
        return _Occurrences(self.place[chosen], self.key[chosen], self.part[chosen])


def _spread(words: NDArray[np.int32]) -> NDArray[np.uint64]:
    """64 bits for each number; those of two phrases are the same by an accident of one in 10^8 at most."""
    mixed = (words.astype(np.uint64) + np.uint64(1)) * _MIX
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


def _longer(laid: Laid, response: Whole, found: _Occurrences, counts: Whole, size: int) -> _Occurrences:
    """Occurrences of one more word: only where both parts without the first and the last word are left."""
    place = found.place
    i = np.flatnonzero(place[1:] == place[:-1] + 1)
    i = i[place[i] + size - 1 < len(laid.word)]
    i = i[response[place[i]] == response[place[i] + size - 1]]
    key = (found.key[i] + np.uint64(1)) * _MIX + _spread(laid.word[place[i] + size - 1])
    part = np.maximum(counts[i], counts[i + 1]) if size < 4 else np.maximum(found.part[i], found.part[i + 1])
    return _Occurrences(place[i], key, part)


def _parts(key: NDArray[np.uint64]) -> Iterator[Whole]:
    """Indices of occurrences, all of one phrase together, that fit into memory."""
    count = -(-len(key) // _AT_ONCE)
    for i in range(count):
        yield np.flatnonzero((key >> np.uint64(40)) % np.uint64(count) == np.uint64(i))


def _counted(
    laid: Laid,
    chance: Numbers,
    response: Whole,
    found: _Occurrences,
    size: int,
    least: int,
    most: int,
) -> Phrases:
    """Count occurrences: once a response, then once a record, then once a conversation."""
    place = found.place
    _, first, phrase = np.unique(found.key, return_index=True, return_inverse=True)
    owner = response[place]
    times = np.bincount(phrase)
    starts = np.bincount(phrase, weights=place == laid.starts[owner])
    ends = np.bincount(phrase, weights=place + size == laid.starts[owner + 1])
    pair = np.unique(phrase * len(laid.lengths) + owner)
    phrase, owner = np.divmod(pair, len(laid.lengths))
    record = laid.record[owner]
    begins = np.flatnonzero(_changes(phrase) | _changes(record))
    have = np.diff(np.append(begins, len(record)))
    size_of = laid.sizes[record[begins]]
    top = np.maximum.reduceat(laid.better[owner], begins) if len(begins) else begins
    low = np.maximum.reduceat(laid.worse[owner], begins) if len(begins) else begins
    ranked = np.minimum.reduceat(laid.better[owner], begins) > 0 if len(begins) else begins > 0
    shared = have == size_of
    sign = np.where(shared | ~ranked, 0, (top == have).astype(int) - (low == have))
    likely = np.where(have == 1, chance[owner[begins]], 1 / _choose(size_of, have))
    phrase = phrase[begins]
    records = np.bincount(phrase, minlength=len(first))
    unit = laid.unit[record[begins]]
    order = np.argsort(phrase * laid.units + unit, kind="stable")
    alone = (have == 1)[order]
    phrase, unit, sign, likely, shared = (a[order] for a in (phrase, unit, sign, likely, shared))
    begins = np.flatnonzero(_changes(phrase) | _changes(unit))
    if not len(begins):
        empty = np.zeros(0, np.int64)
        return Phrases(size, *[empty] * 6, np.zeros(0), empty, np.zeros(0), np.zeros(0))
    net = np.sign(np.add.reduceat(sign, begins))
    alone = np.logical_and.reduceat(alone, begins)
    decided = ~np.logical_and.reduceat(shared, begins)
    likely = np.where(decided, np.maximum.reduceat(np.where(shared, 0.0, likely), begins), 0.0)
    phrase = phrase[begins]
    count = len(first)

    def total(weights: NDArray[np.generic]) -> Numbers:
        return np.bincount(phrase, weights=weights, minlength=count)

    units = np.bincount(phrase, minlength=count)
    apart = total(decided).astype(np.int64)
    counted = Phrases(
        size,
        place[first],
        records,
        units,
        apart,
        total(net > 0).astype(np.int64),
        total(net < 0).astype(np.int64),
        total(likely) / np.maximum(1, apart),
        total(alone & decided).astype(np.int64),
        np.maximum(starts, ends) / times,
        found.part[first] / times,
    )
    return counted.only((units >= least) & (records <= most))


def _changes(values: Whole) -> NDArray[np.bool_]:
    """Where a value differs from the one before it; the first does."""
    return np.append(np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1])


def _choose(n: Whole, k: Whole) -> Numbers:
    """n over k."""
    table = np.array([[math.comb(a, b) for b in range(int(n.max(initial=0)) + 1)] for a in range(int(n.max(initial=0)) + 1)], float)
    return table[n, k]
