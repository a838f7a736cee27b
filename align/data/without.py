"""Records that a recipe leaves out by what they say of themselves: `data.KIND.without`.

A record that is left out moves no other one: sides are drawn by the prompt's hash.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from align.data.split import divide
from align.data.table import Table, text_of
from align.errors import RecipeError, UserError
from align.recipe.data import RECORD, Source, term_of
from align.records import Ranking

Mask = NDArray[np.bool_]
LEAST = 8  # digits of an ID, as recipes have it
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class Counts:
    """How many records train and how many are held out."""

    train: int
    held_out: int

    def __str__(self) -> str:
        return f"{self.train:,} that train and {self.held_out:,} held out"


@dataclass(frozen=True)
class LeftOut:
    """What `without` leaves out, each record once: by its terms and in all, and of how many."""

    by_term: Mapping[str, Counts]
    all: Counts
    of: Counts

    def lines(self, name: str) -> Iterator[str]:
        """What a stage says of it."""
        yield (
            f"data.{name}.without: left out are {self.all.train:,} of {self.of.train:,} records that train "
            f"and {self.all.held_out:,} of {self.of.held_out:,} held out"
        )
        for term, counts in self.by_term.items():
            yield f"  {term}: {counts}"


def leave_out(table: Table, source: Source, name: str) -> LeftOut | None:
    """Take what `source.without` names out of the good rows; None where it names nothing.

    Raises RecipeError for a name that no record has, and where nothing would be left on a side.
    """
    if not source.without:
        return None
    train, held_out = sides(table, source)
    chosen = {term: rows_of(table, term, f"data.{name}.without") for term in source.without}
    gone = np.logical_or.reduce(list(chosen.values()))
    found = LeftOut(
        {term: Counts(_count(mask & train), _count(mask & held_out)) for term, mask in chosen.items()},
        Counts(_count(gone & train), _count(gone & held_out)),
        Counts(_count(train), _count(held_out)),
    )
    terms = ", ".join(source.without)
    if found.all.train == found.of.train:
        raise RecipeError(
            f"data.{name}.without: {terms}: all {found.of.train:,} records that train would be left out",
            f"data.{name}.without",
        )
    if found.of.held_out and found.all.held_out == found.of.held_out:
        raise RecipeError(
            f"data.{name}.without: {terms}: all {found.of.held_out:,} records that are held out would be "
            "left out, and nothing would say what the result is worth. Hold others out "
            f"(data.{name}.held_out), or 0.0 to hold none out",
            f"data.{name}.without",
        )
    table.good &= ~gone
    return found


def sides(table: Table, source: Source) -> tuple[Mask, Mask]:
    """Which rows train and which are held out, of those that are good."""
    train, held_out = np.zeros_like(table.good), np.zeros_like(table.good)
    train_rows, held_out_rows, _ = divide(table, source)
    train[train_rows], held_out[held_out_rows] = True, True
    return train, held_out


def rows_of(table: Table, term: str, where: str) -> Mask:
    """The good rows that a term names.

    Raises RecipeError at the key `where`, which tells the nearest names, where there are none.
    """
    what, name = term_of(term)
    values = {row: value for row, value in _values(table, what) if value is not None}
    chosen = [row for row, one in values.items() if (one.startswith(name) if what == RECORD else one == name)]
    if not chosen:
        raise RecipeError(f"{where}: {term}: {_nobody(what, name, Counter(values.values()))}", where)
    several = {values[row] for row in chosen}
    if len(several) > 1:
        raise RecipeError(f"{where}: {term}: {len(several)} records begin so: write more of it", where)
    mask = np.zeros_like(table.good)
    mask[chosen] = True
    return mask


def _values(table: Table, what: str) -> Iterator[tuple[int, str | None]]:
    """The ID, labeler or source of each good row."""
    for row in np.flatnonzero(table.good).tolist():
        yield row, table.digest(row) if what == RECORD else json.loads(table.text(row)).get(what)


def names_it(ranking: Ranking, terms: Sequence[str]) -> bool:
    """Whether one of the terms names this ranking, which stands in no table."""
    for what, name in map(term_of, terms):
        if what == RECORD:
            if hashlib.sha256(text_of(ranking).encode()).hexdigest().startswith(name):
                return True
        elif getattr(ranking, what) == name:
            return True
    return False


def record_at(table: Table, wanted: str) -> str | None:
    """The ID of the record that stands at FILE:LINE, or whose ID begins so; None where there is none.

    Raises UserError where several records are meant.
    """
    found = set()
    for row in np.flatnonzero(table.good).tolist():
        if stands_at(table, row, wanted):
            found.add(table.digest(row))
    if len(found) > 1:
        raise UserError(f"{RECORD}:{wanted}: {len(found)} records are called so: write more of it")
    return found.pop() if found else None


def stands_at(table: Table, row: int, wanted: str) -> bool:
    """Whether a good row stands at FILE:LINE, or has an ID that begins so."""
    place = table.place(row)
    by_id = len(wanted) >= LEAST and table.digest(row).startswith(wanted)
    return place == wanted or place.endswith(f"/{wanted}") or by_id


def _nobody(what: str, name: str, names: Mapping[str, int]) -> str:
    if what == RECORD:
        return f"no record has this ID, of {sum(names.values()):,}"
    if not names:
        return f"no record says its {what}"
    near = get_close_matches(name, names, 3, 0.5) or sorted(names, key=lambda one: -names[one])[:_SHOWN_NAMES]
    told = ", ".join(f"{one} ({names[one]:,} records)" for one in near)
    rest = f", and {len(names) - len(near):,} more" if len(names) > len(near) else ""
    return f"no record has this {what}; there are {told}{rest}"


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
