"""Files from elsewhere: their rows become tasks, and what people ranked there labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from align.data.formats import Format
from align.data.one_file import OneFile
from align.data.rows import EMPTY_ROW, KINDS, PACKED, FileError, read_rows
from align.errors import UserError
from align.values import RecordError
from labeling.store.engine import Store
from labeling.store.items import add_items, shown_format
from labeling.store.labels import keep_rankings
from labeling.store.models import Person


@dataclass(frozen=True)
class Imported:
    """How many tasks were added, how many were there, and how many rankings by people the file has."""

    tasks: int
    known: int
    rankings: int
    kept: int | None  # of these, as labels; None: that was not asked for
    left_out: Mapping[str, int] = field(default_factory=dict)  # what became no task, by reason
    unread: Sequence[str] = ()  # columns with texts of which nothing is used

    def __str__(self) -> str:
        said = f"{_many(self.tasks, 'task')} added"
        said += f", {self.known} were there before" if self.known else ""
        if self.kept is not None:
            said += f"; {_many(self.kept, 'ranking')} kept as labels"
        elif self.rankings:
            said += f"; {_many(self.rankings, 'ranking')} by people not kept (--with-labels keeps them)"
        if self.left_out:
            reasons = "; ".join(f"{count:,} × {reason}" for reason, count in self.left_out.items())
            said += f"; {sum(self.left_out.values()):,} left out ({reasons})"
        if self.unread:
            said += f"; nothing of {', '.join(f'`{name}`' for name in self.unread)} is used"
        return said


def import_file(
    store: Store,
    path: Path,
    overlap: int,
    by: Person | None = None,
    labels: bool = False,
    name: str = "",
    form: Format | None = None,
    ignore: Sequence[str] = (),
) -> Imported:
    """Add the tasks of a file (JSON Lines, JSON, CSV, Parquet), all or none of them.

    With `labels`, rankings that name their labeler are kept as theirs. `name` is what messages call the file.
    `form` reads its rows, less the columns to `ignore`; without it they are ours, or in the known format that
    the first row shows. Raises UserError with the place in the file.
    """
    place, name = "", name or str(path)

    one = OneFile(ignore)

    def good() -> Iterator[tuple[str, Any]]:
        nonlocal place
        for place, row in read_rows(path, typed=form is not None and form.typed):
            if isinstance(row, RecordError):
                raise row
            if row is not EMPTY_ROW:
                yield place, one.less(row)

    def rows(form: Format | None, placed: Iterator[tuple[str, Any]]) -> Iterator[Any]:
        nonlocal place
        if form is not None:
            placed = one.rows(form, placed)
        for place, row in placed:  # noqa: B007  the except below tells the place
            yield row
        for where, error in one.refused():
            place = where
            raise error

    try:
        placed = good()
        first = list(islice(placed, 1))
        found = form or next((shown_format(row) for _, row in first), None)
        found = found and one.format(found, named=form is not None)
        with store.write() as session:
            added = add_items(session, rows(found, chain(first, placed)), overlap, by, found)
            place = ""
            kept = keep_rankings(session, added.said) if labels else None
    except RecordError as error:
        raise UserError(f"{name}{place}: {error}") from error
    except FileError as error:
        raise UserError(f"{name}{error.place}: {error.message}") from error
    known = len(set(added.before) - set(added.ids))
    return Imported(len(added.ids), known, len(added.said), kept, added.left_out, one.reading.unread)


def import_upload(
    store: Store, stream: BinaryIO, name: str, overlap: int, by: Person | None = None
) -> Imported:
    """`import_file` for a file that somebody sends; its name says of what kind it is."""
    name = Path(name).name
    suffixes = [suffix for suffix in Path(name.lower()).suffixes if suffix in (*KINDS, *PACKED)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"tasks{''.join(suffixes)}"
        with path.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        return import_file(store, path, overlap, by, name=name)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
