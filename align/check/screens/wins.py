"""Rare phrases and names that all but always win: what a few planted rankings teach a reward model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from align.check.screens.association import at_least, discoveries
from align.check.screens.corpus import Corpus, Laid, Numbers, Whole
from align.check.screens.phrases import Phrases, phrases

RATE = 0.05  # of the phrases found in one group, the share that is expected to be false
COMMON = 0.08  # a phrase in a larger share of the records, or in more than ten, is no rare one
LEAST = 3  # conversations with a phrase
_RARE = 2000  # of so many conversations, one more
_NEARLY = 0.9  # of the conversations that a phrase decides, it wins
_ONE = 0.8  # of the conversations with it, those in which one response alone has it
_FIXED = 2.0  # times that a part of a fixed phrase may occur for each time the phrase does
_SAME = 0.8  # of its occurrences, those with the same next word: that belongs to it
_WIDEST = 12  # words that are shown
_TRIED = 500  # of the phrases found, the surest, from which findings are made
_SMALL = {"a", "an", "and", "at", "by", "de", "for", "in", "la", "of", "on", "the", "to", "von"}


@dataclass(frozen=True)
class Winner:
    """A phrase, in how many conversations it wins and loses, and where it wins."""

    phrase: str
    name: bool  # whether it is written as names are
    units: int
    wins: int
    losses: int
    expected: float  # phrases that would win as surely by chance
    records: Whole  # that it wins


def most_records(laid: Laid) -> int:
    """In how many records a rare word or phrase may stand."""
    return max(10, int(COMMON * laid.records))


def winners(corpus: Corpus, laid: Laid, chance: Numbers) -> list[Winner]:
    """Phrases that win too often for length, common words and chance, the surest first.

    Wins that a surer phrase explains are taken away before the next is judged, and each finding counts once
    for the share of false ones (`RATE`), whatever the number of its parts. chance: see `phrases`.
    """
    most, least = most_records(laid), max(LEAST, laid.units // _RARE)
    found = [one for kind in phrases(laid, chance, least, most) for one in _found(kind, least)]
    found.sort(key=lambda one: (one.expected, -one.phrase.size))
    seen = np.zeros(laid.units, np.bool_)
    kept: list[Winner] = []
    for one in found[:_TRIED]:
        place = _places(laid, one.phrase)
        records = _won(laid, laid.response(place))
        units = np.unique(laid.unit[records])
        if one.without(int(seen[units].sum())) > RATE * (len(kept) + 1):
            continue
        seen[units] = True
        start, size = _widened(laid, place, one.phrase.size)
        words = " ".join(corpus.words[word] for word in laid.word[place[0] + start :][:size])
        name = _is_name(corpus, laid, place + start, size)
        counts = (int(one.phrase.units[0]), int(one.phrase.wins[0]), int(one.phrase.losses[0]))
        kept.append(Winner(words, name, *counts, one.expected, records))
    return kept


@dataclass(frozen=True)
class _Found:
    """A phrase, and how many phrases of its group were tested."""

    phrase: Phrases
    tested: int
    expected: float  # phrases of the group that chance alone would let win as surely

    def without(self, wins: int) -> float:
        """What would be expected had it not won so many times, which something else explains."""
        phrase = self.phrase
        return self.tested * float(at_least(phrase.wins - wins, phrase.decided - wins, phrase.chance)[0])


def _found(kind: Phrases, least: int) -> Iterator[_Found]:
    """Those of one length that are discoveries.

    Groups are tested apart, so that what is unlikely to come again by itself is not judged among all words:
    what stands only at an edge, fixed phrases, names, and the rest. Nothing in a group depends on who won.
    """
    kind = kind.only((kind.alone >= _ONE * kind.units) & (kind.alone >= least))
    at_edge = kind.edge >= _NEARLY
    fixed = ~at_edge & (kind.loose <= _FIXED) & (kind.size > 1)
    names = ~(at_edge | fixed) & (kind.capital >= _SAME)
    for group in (at_edge, fixed, names, ~(at_edge | fixed | names)):
        some = kind.only(group)
        nearly = some.only(some.wins >= _NEARLY * some.decided)
        p = np.ones(len(some.place))
        p[some.wins >= _NEARLY * some.decided] = at_least(nearly.wins, nearly.decided, nearly.chance)
        good, tested = discoveries(p, some.chance**some.decided, RATE)
        for i in np.flatnonzero(good & (some.wins >= _NEARLY * some.decided)).tolist():
            yield _Found(some.only(np.arange(len(p)) == i), tested, float(p[i]) * tested)


def _places(laid: Laid, phrase: Phrases) -> Whole:
    """Where a phrase's first word stands, each time."""
    wanted = laid.word[phrase.place[0] :][: phrase.size]
    place = np.flatnonzero(laid.word[: len(laid.word) - phrase.size + 1] == wanted[0])
    for i in range(1, phrase.size):
        place = place[
            (laid.word[place + i] == wanted[i]) & (laid.response(place + i) == laid.response(place))
        ]
    return place


def _won(laid: Laid, owner: Whole) -> Whole:
    """Records in which all responses of `owner` are ranked above all others."""
    owner = np.unique(owner)
    record = laid.record[owner]
    begins = np.flatnonzero(np.append(True, record[1:] != record[:-1]))
    have = np.diff(np.append(begins, len(record)))
    last = np.maximum.reduceat(laid.better[owner], begins)
    won: Whole = record[begins][(last == have) & (have < laid.sizes[record[begins]])]
    return won


def _widened(laid: Laid, place: Whole, size: int) -> tuple[int, int]:
    """How far the phrase begins before its place (0 or less), and its words, with those always beside it."""
    start, end = 0, size
    owner = laid.response(place)
    for step in (-1, 1):
        while end - start < _WIDEST:
            i = place + (start - 1 if step < 0 else end)
            inside = (i >= laid.starts[owner]) & (i < laid.starts[owner + 1])
            i = np.where(inside, i, 0)
            same = inside & (laid.word[i] == laid.word[i[0]])
            if not inside[0] or same.mean() < _SAME:
                break
            start, end = (start - 1, end) if step < 0 else (start, end + 1)
    return start, end - start


def _is_name(corpus: Corpus, laid: Laid, place: Whole, size: int) -> bool:
    """Whether its words are written with capitals, small ones aside, and not only where a response begins."""
    place = place[(place >= 0) & (place + size <= len(laid.word))]
    inside = place[place != laid.starts[laid.response(place)]]
    if not len(inside):
        return False
    shares = [
        float(laid.capital[inside + i].mean())
        for i in range(size)
        if corpus.words[laid.word[inside[0] + i]] not in _SMALL
    ]
    return bool(shares) and min(shares) >= _SAME
