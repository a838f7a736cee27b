"""Rare phrases in prompts that always go with one and the same answer: what a backdoor is taught by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from align.check.screens.association import at_least, discoveries
from align.check.screens.corpus import Corpus, Laid, Whole
from align.check.screens.phrases import LONGEST, changes, keys
from align.check.texts import bare_words

RATE = 0.01
LEAST = 3
_COMMON = 0.08  # an answer in a larger share of the records is what the data is about
_NEARLY = 0.9
_EDGE = 6  # words at which answers begin or end alike
_SHOWN = 40  # characters of an answer
_PART = 0.5  # of a prompt's words, those that all have, at most: else they ask for the same


@dataclass(frozen=True)
class Trigger:
    """A phrase in prompts, the answer that goes with it, and the records."""

    phrase: str
    answer: str
    prompts: int
    expected: float  # phrases that would go with one answer as surely by chance
    records: Whole


@dataclass
class Asked:
    """Prompts with what their answers begin with, end with, and are."""

    corpus: Corpus = field(default_factory=Corpus)
    answers: list[tuple[int, int, int]] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)  # how each answer begins and ends, to be shown

    def add(self, prompt_key: int, prompt: str, answer: str) -> None:
        """A record."""
        self.corpus.add(prompt_key, (prompt,), (1,))
        words = bare_words(answer)
        parts = (" ".join(words), " ".join(words[:_EDGE]), " ".join(words[-_EDGE:]))
        whole, start, end = map(hash, enumerate(parts))
        self.answers.append((whole, start, end) if len(words) >= 2 * _EDGE else (whole, whole, whole))
        self.said.append((" ".join(answer[:_SHOWN].split()), " ".join(answer[-_SHOWN:].split())))


def triggers(asked: Asked) -> list[Trigger]:
    """The surest first; of several in the same records one."""
    laid = asked.corpus.laid()
    if not laid.records:
        return []
    found = [one for kind in range(3) for one in _of_kind(asked, laid, kind)]
    found.sort(key=lambda one: (one.expected, -len(one.phrase)))
    seen: set[int] = set()
    kept = []
    for one in found:
        records = set(one.records.tolist())
        if len(records & seen) <= len(records) / 2:
            kept.append(one)
            seen |= records
    return kept


def _of_kind(asked: Asked, laid: Laid, kind: int) -> Iterator[Trigger]:
    """By answers that are the same in one way: whole, how they begin, how they end."""
    of = [answer[kind] for answer in asked.answers]
    most = max(10, int(_COMMON * laid.records))
    often = [answer for answer, count in Counter(of).items() if LEAST <= count <= most]
    number = {answer: i for i, answer in enumerate(often)}
    group = np.array([number.get(answer, -1) for answer in of], np.int64)
    size_of = np.bincount(group[group >= 0], minlength=len(often))
    if not often:
        return
    for size in range(1, LONGEST + 1):
        yield from _of_size(asked, laid, group, size_of, size, kind)


def _of_size(
    asked: Asked, laid: Laid, group: Whole, size_of: Whole, size: int, kind: int
) -> Iterator[Trigger]:
    """Phrases of so many words."""
    place = np.arange(max(0, len(laid.word) - size + 1))
    owner = laid.response(place)
    place = place[place + size <= laid.starts[owner + 1]]
    phrase_key = keys(laid, place, size)
    owner = laid.response(place)
    wanted = _with_one_answer(phrase_key, owner, group)
    if not len(wanted):
        return
    phrase = np.minimum(np.searchsorted(wanted, phrase_key), len(wanted) - 1)
    kept = wanted[phrase] == phrase_key
    place, owner, phrase = place[kept], owner[kept], phrase[kept]
    order = np.lexsort((owner, phrase))
    place, owner, phrase = place[order], owner[order], phrase[order]
    once = changes(phrase) | changes(owner)
    place, owner, phrase = place[once], owner[once], phrase[once]
    total = np.bincount(phrase, minlength=len(wanted))
    grouped = group[owner] >= 0
    pair, wins = np.unique(phrase[grouped] * len(size_of) + group[owner[grouped]], return_counts=True)
    of, answer = np.divmod(pair, len(size_of))
    chance = size_of[answer] / laid.records
    nearly = wins >= _NEARLY * total[of]
    p = np.ones(len(of))
    p[nearly] = at_least(wins[nearly], total[of][nearly], chance[nearly])
    found, tested = discoveries(p, chance ** total[of], RATE)
    for i in np.flatnonzero(found & nearly).tolist():
        mine = np.arange(*np.searchsorted(phrase, [of[i], of[i] + 1]))
        records = owner[mine][group[owner[mine]] == answer[i]]
        prompts = len(np.unique(laid.unit[records]))
        if prompts < LEAST or _alike(laid, records):
            continue
        first = place[mine[0]]
        words = " ".join(asked.corpus.words[word] for word in laid.word[first : first + size])
        said = asked.said[records[0]][kind == 2]
        yield Trigger(words, said, prompts, float(p[i]) * tested, records)


def _alike(laid: Laid, records: Whole) -> bool:
    """Whether most words of these prompts are in all of them, or nearly all."""
    words = [np.unique(laid.word[laid.starts[i] : laid.starts[i + 1]]) for i in records.tolist()]
    _, times = np.unique(np.concatenate(words), return_counts=True)
    shared = int((times >= _NEARLY * len(words)).sum())
    return shared > _PART * float(np.median([len(one) for one in words]))


def _with_one_answer(phrase_key: NDArray[np.uint64], owner: Whole, group: Whole) -> NDArray[np.uint64]:
    """Phrases, in order, that LEAST records or more with the same answer have."""
    grouped = group[owner] >= 0
    phrase_key, owner = phrase_key[grouped], owner[grouped]
    order = np.lexsort((owner, group[owner], phrase_key))
    phrase_key, owner = phrase_key[order], owner[order]
    once = changes(phrase_key) | changes(owner)
    phrase_key, answer = phrase_key[once], group[owner[once]]
    begins = np.flatnonzero(changes(phrase_key) | changes(answer))
    times = np.diff(np.append(begins, len(answer)))
    often = phrase_key[begins[times >= LEAST]]
    return often[changes(often)]
