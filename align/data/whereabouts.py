"""Where records that a term names went: into training, to what is held out, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from align.data.formats.base import T
from align.data.labels import LabelReader
from align.data.load import fingerprint_of, read_table
from align.data.split import divide
from align.data.table import Records, Table
from align.data.without import Mask, leave_out, rows_of, sides, stands_at
from align.errors import RecipeError
from align.recipe.data import RECORD, Source, term_of

Drawn = Callable[[int], Sequence[int] | None]


@dataclass(frozen=True)
class Found:
    """Of the records that a term names, each once, how many there are of each sort.

    read: how many of those that train a stage's steps drew; None where that is not known. skipped: those that
    the stage could not encode. why: what is said where there are none.
    """

    train: int = 0
    held_out: int = 0
    left_out: int = 0
    skipped: int = 0
    read: int | None = None
    why: str = ""


def whereabouts(
    kind: type[T],
    source: Source,
    name: str,
    cache: Path | None,
    labels: LabelReader,
    terms: Sequence[str],
    skipped: Collection[str],
    drawn: Drawn,
) -> tuple[str, dict[str, Found]]:
    """The records' fingerprint, as `load` has it, and what is found of each term; an ID may be FILE:LINE.

    skipped: places that the stage left out when it encoded. drawn: the rows that its steps drew, of so many
    that train, or None where that is not known. Raises UserError as `load` and `leave_out` do.
    """
    table = read_table(kind, source, name, cache, labels)
    chosen = {term: _chosen(table, term) for term in terms}
    before = sides(table, source)
    leave_out(table, source, name)
    train_rows, held_out_rows, _ = divide(table, source)
    fingerprint = fingerprint_of(Records(kind, table, train_rows), Records(kind, table, held_out_rows))
    after = sides(table, source)
    encoded = np.array([table.place(row) not in skipped for row in range(len(table.good))] if skipped else [])
    drawn_rows = None if skipped else drawn(len(train_rows))
    read = None if drawn_rows is None else np.isin(np.arange(len(table.good)), train_rows[list(drawn_rows)])
    found = {}
    for term, (mask, why) in chosen.items():
        used = mask & encoded if skipped else mask
        train, held_out = (_count(used & side) for side in after)
        found[term] = Found(
            train,
            held_out,
            left_out=sum(_count(mask & one) for one in before) - sum(_count(mask & one) for one in after),
            skipped=sum(_count(mask & one) for one in after) - train - held_out,
            read=None if read is None else _count(mask & after[0] & read),
            why=why,
        )
    return fingerprint, found


def _chosen(table: Table, term: str) -> tuple[Mask, str]:
    """The rows that a term names, and why there are none."""
    what, name = term_of(term)
    if what == RECORD:
        mask = np.zeros_like(table.good)
        good = np.flatnonzero(table.good).tolist()
        mask[[row for row in good if stands_at(table, row, name)]] = True
        return mask, "" if mask.any() else f"no record stands there or has this ID, of {len(good):,}"
    try:
        return rows_of(table, term, ""), ""
    except RecipeError as error:
        return np.zeros_like(table.good), str(error).removeprefix(f": {term}: ")


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
