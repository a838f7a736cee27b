"""The words of all responses as numbers, laid out flat, with what the labels say of each response."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.check.texts import words

Whole = NDArray[np.int64]
Numbers = NDArray[np.float64]
Ranks = tuple[int | None, ...]


@dataclass(frozen=True)
class Laid:
    """Responses in a row, those of one record beside each other.

    `word` [words] numbers of words, `capital` whether each is written with a capital; `starts`
    [responses + 1] where each response begins; `record` [responses]; `first` [records + 1] the record's first
    response; `unit` [records] counts what is judged together: rankings of one conversation. `better`, `worse`
    [responses]: how many responses of the record are ranked at least, or at most, as high, itself included; 0
    where it has no rank.
    """

    word: NDArray[np.int32]
    capital: NDArray[np.bool_]
    starts: Whole
    record: Whole
    first: Whole
    unit: Whole
    better: Whole
    worse: Whole

    @property
    def records(self) -> int:
        """How many."""
        return len(self.first) - 1

    @property
    def units(self) -> int:
        """How many."""
        return int(self.unit.max(initial=-1)) + 1

    @property
    def sizes(self) -> Whole:
        """How many responses each record has."""
        return np.diff(self.first)

    @property
    def lengths(self) -> Whole:
        """How many words each response has."""
        return np.diff(self.starts)

    def response(self, place: Whole) -> Whole:
        """In which response a word stands."""
        return np.searchsorted(self.starts, place, "right") - 1


class _Numbers(dict[str, int]):
    """Of a word as it is written: twice its number, and 1 more where it begins with a capital."""

    def __init__(self, words: list[str]) -> None:
        self._words = words  # casefolded, by their numbers
        self._folded: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        folded = word.casefold()
        number = self._folded.setdefault(folded, len(self._words))
        if number == len(self._words):
            self._words.append(folded)
        found = 2 * number + (word[0].isupper() or word[0].istitle())
        self[word] = found
        return found


class Corpus:
    """Takes records one by one; four bytes a word, and the different words."""

    def __init__(self) -> None:
        self.words: list[str] = []  # casefolded
        self._numbers = _Numbers(self.words)
        self._word, self._starts = array("i"), array("q", [0])
        self._first = array("q", [0])
        self._better, self._worse, self._unit = array("i"), array("i"), array("q")
        self._units: dict[int, int] = {}

    def add(self, unit: int, responses: Sequence[str], ranks: Ranks) -> None:
        """A ranking; unit: a key that is the same for records of one conversation."""
        for text in responses:
            self._word.extend(map(self._numbers.__getitem__, words(text)))
            self._starts.append(len(self._word))
        self._first.append(len(self._starts) - 1)
        self._unit.append(self._units.setdefault(unit, len(self._units)))
        known = [rank for rank in ranks if rank is not None]
        for rank in ranks:
            self._better.append(0 if rank is None else sum(other <= rank for other in known))
            self._worse.append(0 if rank is None else sum(other >= rank for other in known))

    def laid(self) -> Laid:
        """All of it."""
        first = np.array(self._first, np.int64)
        return Laid(
            np.frombuffer(self._word, np.int32) >> 1,
            (np.frombuffer(self._word, np.int32) & 1).astype(np.bool_),
            np.array(self._starts, np.int64),
            np.repeat(np.arange(len(first) - 1), np.diff(first)),
            first,
            np.array(self._unit, np.int64),
            np.array(self._better, np.int64),
            np.array(self._worse, np.int64),
        )
