"""From the recipe's entries to what trains and what is held out.

Records are read once: they go, as JSON with their hashes and places, into the cache, under a name made
from the file's content and how it is read. What a stage gets are views of these files, not lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

from align.data.formats import Format
from align.data.labels import Labels, read_labels
from align.data.rows import kind_of
from align.data.scan import Located, Problem, T, format_code, open_entry, scan, scan_file
from align.data.sources import File
from align.data.split import divide, side
from align.data.store import Batches, code_of, content_key, kept
from align.data.table import SCHEMA, Part, Records, Rows, Table, row_of
from align.errors import UserError
from align.recipe import Entry, Source
from align.runtime.files import sha256

__all__ = ["Located", "Problem", "Split", "load", "scan", "side"]

SHOWN = 20  # problems that are printed one by one; the others are counted
_CODE = ("records.py", "data/rows.py", "data/scan.py", "data/table.py", "data/formats/*.py")


@dataclass(frozen=True)
class Split(Generic[T]):
    """Records that train, records that are held out, and a sha256 over both in their order."""

    train: Records[T]
    held_out: Records[T]
    fingerprint: str
    skipped: list[Problem] = field(default_factory=list)  # with `on_bad_record: skip`


def load(
    kind: type[T], source: Source, name: str, cache: Path | None = None, labels: Labels = read_labels
) -> Split[T]:
    """Read and split the records of `data.<name>`.

    No prompt is on both sides, and no value of `split_key`. With a share, the key's hash alone decides its
    side: it stays there when records are added, and a prompt is on the same side for demonstrations,
    rankings and prompts of one share. `cache` None: nothing is kept for the next start.
    `labels` reads labeling databases.
    Raises UserError that names file, line and field of up to 20 problems and counts the others.
    """
    problems = _Problems(name)
    parts = list(_read(kind, source.train, source, problems, cache, labels, held_out=False))
    if isinstance(source.held_out, list):
        parts += _read(kind, source.held_out, source, problems, cache, labels, held_out=True)
    else:
        problems.refuse()
    table = Table(parts)
    train_rows, held_out_rows, skipped = _divided(table, source, name, problems)
    train, held_out = Records(kind, table, train_rows), Records(kind, table, held_out_rows)
    fingerprint = hashlib.sha256(f"{train.fingerprint} {held_out.fingerprint}".encode()).hexdigest()
    return Split(train, held_out, fingerprint, skipped)


def _divided(
    table: Table, source: Source, name: str, problems: _Problems
) -> tuple[Rows, Rows, list[Problem]]:
    """The rows that train, those held out, and what was skipped; raises UserError as `load` says."""
    train_rows, held_out_rows, leaks = divide(table, source, name)
    skipped: list[Problem] = []
    if source.on_bad_record == "skip":
        skipped = [*table.problems(), *leaks]
    else:
        problems.add(leaks)
    problems.refuse()
    if not len(train_rows):
        left = "every record was skipped" if skipped else "the weights leave no record to train on"
        raise UserError("\n".join([f"data.{name}.train: {left}", *(f"  {p}" for p in skipped[:SHOWN])]))
    return train_rows, held_out_rows, skipped


class _Problems:
    """What is wrong: the first ones, and how many there are."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._first: list[Problem] = []
        self._count = 0

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._count += 1
            if self._count <= SHOWN:
                self._first.append(problem)

    def refuse(self) -> None:
        """Raise UserError if there is any."""
        if not self._count:
            return
        count = "1 problem" if self._count == 1 else f"{self._count} problems"
        told = f"data.{self._name}: {count} in the records. Correct the files or their paths in the recipe, "
        lines = [told + "then rerun.", *(f"  {problem}" for problem in self._first)]
        if self._count > SHOWN:
            lines.append(f"  … and {self._count - SHOWN} more")
        raise UserError("\n".join(lines))


class _NotKept(Exception):
    """A file's records are not to be used: its problems have been told."""


def _read(
    kind: type[T],
    entries: list[Entry],
    source: Source,
    problems: _Problems,
    cache: Path | None,
    labels: Labels,
    held_out: bool,
) -> Iterator[Part]:
    """The files of the entries, each read or found in the cache; what is wrong is added to `problems`."""
    for entry in entries:
        opened = open_entry(kind, entry, cache, labels)
        if isinstance(opened, Problem):
            problems.add([opened])
            continue
        form, files = opened
        for file in files:
            try:
                batches = _records(kind, entry, form, file, source, problems, cache)
            except _NotKept:
                continue
            part = Part(batches, file.shown, entry.weight, held_out)
            if source.on_bad_record == "fail":
                problems.add(Table([part]).problems())
            yield part


def _records(
    kind: type[T],
    entry: Entry,
    form: Format | None,
    file: File,
    source: Source,
    problems: _Problems,
    cache: Path | None,
) -> Batches:
    """A file's records and problems as rows of SCHEMA."""

    def rows() -> Iterator[tuple[Any, ...]]:
        told = False
        for part in scan_file(kind, file.path, form, source.split_key):
            if isinstance(part, Problem) and (part.whole_file or source.on_bad_record == "fail"):
                problems.add([replace(part, place=file.shown + part.place)])
                told = True
            elif not told:
                yield row_of(part)
        if told:
            raise _NotKept

    plug_in = format_code(entry.format)
    try:
        content = sha256(file.path)
    except OSError as error:
        problems.add([Problem(file.shown, "", f"cannot be read: {error.strerror}")])
        raise _NotKept from error
    key = content_key(
        code=code_of(*_CODE),
        kind=kind.__name__,
        content=content,
        name=kind_of(file.path.name),
        format=entry.format,
        plug_in=plug_in,
        columns=entry.columns,
        split_key=source.split_key,
    )
    return kept(cache if plug_in is not None else None, f"records/{key}.arrow", SCHEMA, rows)
