"""Files from elsewhere: their rows become tasks, and what people ranked there labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from align.data.formats import Format
from align.data.one_file import OneFile
from align.data.rows import EMPTY_ROW, KINDS, PACKED, FileError
from align.data.rows_within import rows_within
from align.errors import UserError
from align.values import RecordError
from labeling.language import gettext, ngettext, number
from labeling.retold import retold, retold_error
from labeling.store.audit import note
from labeling.store.engine import Store
from labeling.store.items import AddedItems, add_items, made_of, names_of, shown_format
from labeling.store.made_elsewhere import check_ranking, keep_rankings
from labeling.store.models import Person

TOGETHER = 100  # rows written in one transaction
_PAUSE = 0.12  # seconds: who waits at SQLite's lock looks again every tenth of a second
Progress = Callable[[int, int], None]  # rows written, and of how many


@dataclass(frozen=True)
class Imported:
    """How many tasks were added, how many were there, and how many rankings by people the file has."""

    tasks: int
    known: int
    rankings: int
    kept: int | None  # of these, as labels; None: that was not asked for
    left_out: Mapping[str, int] = field(default_factory=dict)  # what became no task, by reason
    unread: Sequence[str] = ()  # columns with texts of which nothing is used
    repeated: int = 0  # rows that are the same as another one of the file

    def __str__(self) -> str:
        said = [ngettext("%(num)s task added", "%(num)s tasks added", self.tasks)]
        if self.known:
            said[0] += ", " + ngettext("%(num)s were there before", "%(num)s were there before", self.known)
        if self.repeated:
            said.append(
                ngettext(
                    "%(num)s row is the same as another one of the file",
                    "%(num)s rows are the same as another one of the file",
                    self.repeated,
                )
            )
        if self.kept is not None:
            said.append(
                ngettext("%(num)s ranking kept as labels", "%(num)s rankings kept as labels", self.kept)
            )
        elif self.rankings:
            said.append(
                ngettext(
                    "%(num)s ranking by people not kept (--with-labels keeps them)",
                    "%(num)s rankings by people not kept (--with-labels keeps them)",
                    self.rankings,
                )
            )
        if self.left_out:
            reasons = "; ".join(
                f"{number(count)} × {retold(reason)}" for reason, count in self.left_out.items()
            )
            total = number(sum(self.left_out.values()))
            said.append(gettext("%(total)s left out (%(reasons)s)", total=total, reasons=reasons))
        if self.unread:
            columns = ", ".join(f"`{name}`" for name in self.unread)
            said.append(gettext("nothing of %(columns)s is used", columns=columns))
        return "; ".join(said)


def import_file(
    store: Store,
    path: Path,
    overlap: int,
    by: Person | None = None,
    labels: bool = False,
    name: str = "",
    form: Format | None = None,
    ignore: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    most: int | None = None,
) -> Imported:
    """Add the tasks of a file (JSON Lines, JSON, CSV, Parquet); nothing where a row is wrong.

    They are read and checked first, then written as by `add_in_parts`, which tells its progress.
    With `labels`, rankings that name their labeler are kept as theirs. `name` is what messages call the file.
    `form` reads its rows, less the columns to `ignore`; without it they are ours, or in the known format that
    the first row shows. `most`: bytes that they may have, unpacked.
    Raises UserError with the place in the file.
    """
    place, name = "", name or str(path)

    one = OneFile(ignore)

    def good() -> Iterator[tuple[str, Any]]:
        nonlocal place
        for place, row in rows_within(path, form is not None and form.typed, most):
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
        with store.read() as session:
            names = names_of(session)
        checked = list(_checked(rows(found, chain(first, placed)), overlap, names, found, labels))
        place = ""
        added, kept = add_in_parts(store, checked, overlap, by, found, labels, progress)
    except RecordError as error:
        raise UserError(f"{name}{_where(place)}: {retold_error(error)}") from error
    except FileError as error:
        raise UserError(f"{name}{_where(error.place)}: {retold(error.message)}") from error
    said = _said(added, kept if labels else None, one.reading.unread)
    with store.write() as session:
        note(session, by, "added a file", "task", tasks=said.tasks, known=said.known, labels=said.kept)
    return said


def _where(place: str) -> str:
    """A place in a file: ":12" is a line; " row 12" has words."""
    return f" {retold(place[1:])}" if place.startswith(" ") else place


def _said(added: AddedItems, kept: int | None, unread: Sequence[str]) -> Imported:
    known = len(set(added.before) - set(added.ids))
    return Imported(
        tasks=len(added.ids),
        known=known,
        rankings=len(added.said),
        kept=kept,
        left_out=added.left_out,
        unread=unread,
        repeated=0 if added.said else len(added.before) - known,  # several people's rankings are none
    )


def add_tasks(
    store: Store, rows: Sequence[Mapping[str, Any]], overlap: int, by: Person | None = None
) -> AddedItems:
    """Add tasks that a program sends; nothing where one is wrong. Raises RecordError."""
    with store.read() as session:
        names = names_of(session)
    added = add_in_parts(store, list(_checked(rows, overlap, names)), overlap, by)[0]
    if added.ids:
        with store.write() as session:
            note(session, by, "added tasks", "task", tasks=len(added.ids))
    return added


def add_in_parts(
    store: Store,
    rows: Sequence[Any],
    overlap: int,
    by: Person | None = None,
    form: Format | None = None,
    labels: bool = False,
    progress: Progress = lambda done, total: None,
) -> tuple[AddedItems, int]:
    """Write rows that were checked, in short transactions, and with `labels` what people ranked in them.

    Between these others write: no labeler waits for a long import. Where it is stopped, what was written
    stays, and the same rows again add the rest. Returns what became of them, and how many labels are new.
    """
    whole, kept = AddedItems([]), 0
    for start in range(0, len(rows), TOGETHER):
        progress(start, len(rows))
        if start and store.is_sqlite:
            time.sleep(_PAUSE)
        with store.write() as session:
            part = add_items(session, rows[start : start + TOGETHER], overlap, by, form)
            kept += keep_rankings(session, part.said) if labels else 0
        whole.ids += part.ids
        whole.before += part.before
        whole.said += part.said
        whole.left_out.update(part.left_out)
    progress(len(rows), len(rows))
    return whole, kept


def _checked(
    rows: Iterable[Any],
    overlap: int,
    names: Mapping[str, int],
    form: Format | None = None,
    labels: bool = False,
) -> Iterator[Any]:
    """The rows, each once it is known that it can be written."""
    for row in rows:
        for item, ranking in made_of(row, overlap, names, form):
            if labels and ranking is not None:
                check_ranking(item, ranking)
        yield row


def suffix_of(name: str) -> str:
    """How a copy of a file must end, to be read as the kind that its name says."""
    return "".join(suffix for suffix in Path(name.lower()).suffixes if suffix in (*KINDS, *PACKED))
