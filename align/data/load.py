"""From the recipe's entries to what trains and what is held out.

Records are read once: they go, as JSON with their hashes and places, into the cache, under a name made
from the file's content and how it is read. What a stage gets are views of these files, not lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from align.data.formats.base import T
from align.data.labels import LabelReader, read_labels
from align.data.problems import Tally
from align.data.reading import Reading
from align.data.rows import FileError, kind_of
from align.data.scan import How, Problem, format_code, open_entry, scan_file
from align.data.sources import File
from align.data.split import check_share, divide
from align.data.store import RowNumbers, code_of, content_key, kept
from align.data.table import SCHEMA, Part, Records, Table, reading_row, row_of
from align.data.without import LeftOut, leave_out
from align.errors import RecipeError, UserError
from align.recipe.data import Entry, Source
from align.run.files import sha256

SHOWN = 20  # kinds of problems that are printed; the others are counted
_EXAMPLES = 2  # records of a file that a survey shows
_OFTEN = 500  # records between two words on how many were read
_ROWS = ("data/*rows.py", "data/lines.py", "data/json_text.py", "data/json_tables.py", "data/formats/*.py")
_CODE = (
    "records.py",
    "messages.py",
    "values.py",
    "literals.py",
    *_ROWS,
    "data/scan.py",
    "data/doubts.py",
    "data/likeness.py",
    "data/reading.py",
    "data/table.py",
)


@dataclass(frozen=True)
class Split(Generic[T]):
    """Records that train, records that are held out, and a sha256 over both in their order."""

    train: Records[T]
    held_out: Records[T]
    fingerprint: str
    skipped: list[Problem] = field(default_factory=list)  # with `on_bad_record: skip`
    readings: list[tuple[str, Reading]] = field(default_factory=list)  # each file's name, and how it was read
    left_out: LeftOut | None = None  # by `without`


def load(
    kind: type[T], source: Source, name: str, cache: Path | None = None, labels: LabelReader = read_labels
) -> Split[T]:
    """Read and split the records of `data.<name>`.

    No prompt is on both sides, and no value of `split_key`. With a share, the key's hash alone decides its
    side: it stays there when records are added, and a prompt is on the same side for demonstrations,
    rankings and prompts of one share. `cache` None: nothing is kept for the next start.
    `labels` reads labeling databases.
    Raises UserError that names file, line and field of up to 20 problems and counts the others, and
    RecipeError as `leave_out` does.
    """
    problems = _Problems(name)
    table = _table(kind, source, cache, labels, problems)
    if source.without or not isinstance(source.held_out, list):
        problems.refuse()
    left_out = leave_out(table, source, name)
    train_rows, held_out_rows, skipped = _divided(table, source, name, problems)
    train, held_out = Records(kind, table, train_rows), Records(kind, table, held_out_rows)
    fingerprint = fingerprint_of(train, held_out)
    readings = [(part.name, part.reading) for part in table.parts]
    return Split(train, held_out, fingerprint, skipped, readings, left_out)


def read_table(
    kind: type[T], source: Source, name: str, cache: Path | None, labels: LabelReader = read_labels
) -> Table:
    """All records of `data.<name>`, undivided and with none left out; raises UserError as `load` does."""
    problems = _Problems(name)
    table = _table(kind, source, cache, labels, problems)
    problems.refuse()
    return table


def fingerprint_of(train: Records[T], held_out: Records[T]) -> str:
    """A sha256 over both sides in their order."""
    return hashlib.sha256(f"{train.fingerprint} {held_out.fingerprint}".encode()).hexdigest()


def _table(
    kind: type[T], source: Source, cache: Path | None, labels: LabelReader, problems: _Problems
) -> Table:
    """All rows of a source; what is wrong with them is among the problems, unless it is to be skipped."""
    skip = source.on_bad_record == "skip"
    read = _Reader(kind, source, cache, labels, problems.add, tell=not skip, keep=skip)
    return Table(list(read.parts()))


@dataclass(frozen=True)
class Survey(Generic[T]):
    """All good records of a source, each once, on their sides."""

    train: Records[T]
    held_out: Records[T]
    trains: NDArray[np.bool_]  # [N], of `train`: not what is held out too, nor what a weight leaves out
    files: list[tuple[Part, Records[T]]]  # what was read, and the first records of each
    left_out: LeftOut | None = None  # by `without`


def survey(
    kind: type[T],
    source: Source,
    refuse: Callable[[Problem], None],
    cache: Path | None = None,
    seen: Callable[[int], None] = lambda count: None,
) -> Survey[T]:
    """Read all that `load` would, and keep it as `load` does; `refuse` hears of all that is wrong.

    `seen` hears how many more records have been read.
    """
    read = _Reader(kind, source, cache, read_labels, refuse, tell=True, keep=True, seen=seen)
    table = Table(list(read.parts()))
    left_out = None
    try:
        left_out = leave_out(table, source, kind.kind)
    except RecipeError as error:
        place, _, message = str(error).partition(": ")
        refuse(Problem(place, "", message, whole_file=True))
    trains, held_out, _ = divide(table, source)
    train = np.setdiff1d(np.flatnonzero(table.good), held_out)
    files = [(part, Records(kind, table, rows)) for part, rows in table.first_rows(_EXAMPLES)]
    sides = Records(kind, table, train), Records(kind, table, held_out)
    return Survey(*sides, np.isin(train, trains), files, left_out)


def _divided(
    table: Table, source: Source, name: str, problems: _Problems
) -> tuple[RowNumbers, RowNumbers, list[Problem]]:
    """The rows that train, those held out, and what was skipped; raises UserError as `load` says."""
    train_rows, held_out_rows, leaks = divide(table, source)
    check_share(table, held_out_rows, source, name)
    skipped: list[Problem] = []
    if source.on_bad_record == "skip":
        skipped = [*table.problems(), *leaks]
    else:
        for leak in leaks:
            problems.add(leak)
    problems.refuse()
    if not len(train_rows):
        left = "every record was skipped" if skipped else "the weights leave no record to train on"
        raise UserError("\n".join([f"data.{name}.train: {left}", *(f"  {p}" for p in skipped[:SHOWN])]))
    return train_rows, held_out_rows, skipped


class _Problems:
    """What is wrong with the records of `data.<name>`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tally = Tally()
        self.add = self._tally.add

    def refuse(self) -> None:
        """Raise UserError if there is anything."""
        count, kinds = self._tally.count, len(self._tally.kinds)
        if not count:
            return
        problems = "1 problem" if count == 1 else f"{count:,} problems"
        told = f"data.{self._name}: {problems} in the records. Correct the files or the recipe, then rerun."
        lines = [told, *(f"  {line}" for line in self._tally.lines(SHOWN))]
        if kinds > SHOWN:
            lines.append(f"  … and {kinds - SHOWN} more kinds of problems")
        raise UserError("\n".join(lines))


class _NotKept(Exception):
    """A file's records are not to be used: its problems have been told."""


@dataclass(frozen=True)
class _Reader(Generic[T]):
    """Reads the files of a source's entries, or finds them in the cache."""

    kind: type[T]
    source: Source
    cache: Path | None
    labels: LabelReader
    refuse: Callable[[Problem], None]  # hears of files that cannot be used
    tell: bool  # and of each wrong record
    keep: bool  # wrong records are rows of their own; else their file cannot be used
    seen: Callable[[int], None] = lambda count: None  # hears how many more records have been read

    def parts(self) -> Iterator[Part]:
        """The files one after the other; what is wrong with one is told before the next is read."""
        apart = self.source.held_out if isinstance(self.source.held_out, list) else []
        entries = [(entry, False) for entry in self.source.train] + [(entry, True) for entry in apart]
        for entry, held_out in entries:
            opened = open_entry(self.kind, entry, self.cache, self.labels)
            if isinstance(opened, Problem):
                self.refuse(opened)
                continue
            how, files = opened
            for file in files:
                try:
                    yield self._part(entry, how, file, held_out)
                except _NotKept:
                    continue

    def _part(self, entry: Entry, how: How, file: File, held_out: bool) -> Part:
        """A file's records and problems as rows of SCHEMA; raises _NotKept."""
        found_before = True
        try:
            plug_in, content = format_code(entry), sha256(file.path)
        except FileError as error:
            self.refuse(Problem(entry.path, "", error.message, whole_file=True))
            raise _NotKept from error
        except OSError as error:
            self.refuse(Problem(file.shown, "", f"cannot be read: {error.strerror}", whole_file=True))
            raise _NotKept from error

        def rows() -> Iterator[tuple[Any, ...]]:
            nonlocal found_before
            found_before, good, reading = False, True, Reading()
            parts = scan_file(self.kind, file.path, how, self.source.split_key, reading)
            for number, part in enumerate(parts, 1):
                if number % _OFTEN == 0:
                    self.seen(_OFTEN)
                if isinstance(part, Problem):
                    if self.tell or part.whole_file:
                        self.refuse(replace(part, place=file.shown + part.place))
                    good = good and self.keep and not part.whole_file
                if good:
                    yield row_of(part)
            if not good:
                raise _NotKept
            if plug_in is None:
                reading.why += (
                    "; read anew at each start, since it may open other files: name them by `reads: [...]`"
                )
            yield reading_row(reading)

        key = content_key(
            code=code_of(*_CODE),
            kind=self.kind.__name__,
            content=content,
            name=kind_of(file.path.name),
            format=entry.format,
            plug_in=plug_in,
            columns=entry.columns and entry.columns.model_dump(exclude_defaults=True),
            ignore=entry.ignore,
            buckets=entry.buckets,
            described=how.form.settings if how.form else "",
            split_key=self.source.split_key,
        )
        batches = kept(self.cache if plug_in is not None else None, f"records/{key}.arrow", SCHEMA, rows)
        part = Part(batches, file.shown, entry.weight, held_out)
        if found_before and self.tell:
            for problem in Table([part]).problems():
                self.refuse(problem)
        return part
