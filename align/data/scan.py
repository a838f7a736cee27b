"""Records of a recipe's entries as a stream: every row is read, checked and named, and no file is held."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from align.data import dataset_info
from align.data.formats import Format, LeftOut, Record, as_kind, built_in, detect, find, from_columns
from align.data.formats.base import T
from align.data.formats.columns import look_up
from align.data.labels import LabelReader, labels_file, read_labels
from align.data.rows import FileError, read_rows
from align.data.sources import File, files_of
from align.errors import UserError
from align.recipe.sections import LABELS, Entry
from align.records import RecordError, prompt_key

W = TypeVar("W")


@dataclass(frozen=True)
class Located(Generic[T]):
    """A record, where it stands ("file:12", "file row 12"), and the key that decides its side of a split."""

    record: T
    place: str
    key: str


@dataclass(frozen=True)
class Problem:
    """What is wrong at a place; `field` is the part of the record, "" for all of it."""

    place: str
    field: str
    message: str
    whole_file: bool = False  # the file, or the rest of it, cannot be read: that is never skipped

    def __str__(self) -> str:
        return f"{self.place}: {f'`{self.field}` ' if self.field else ''}{self.message}"

    def to_dict(self) -> dict[str, str]:
        """A line of skipped.jsonl."""
        return {"place": self.place, "field": self.field, "message": self.message}


def scan(
    kind: type[T], entries: Sequence[Entry], split_key: str | None = None, cache: Path | None = None
) -> Iterator[Located[T] | Problem]:
    """All records of the entries, and all that is wrong with them, in the order in which they stand.

    `split_key`: a column (a dotted path) whose value is the key; without it the prompt is. `cache`: see
    align.data.sources.
    """
    for entry in entries:
        opened = open_entry(kind, entry, cache)
        if isinstance(opened, Problem):
            yield opened
            continue
        form, files = opened
        for file in files:
            for part in scan_file(kind, file.path, form, split_key):
                yield replace(part, place=file.shown + part.place)


def open_entry(
    kind: type[T], entry: Entry, cache: Path | None, labels: LabelReader = read_labels
) -> tuple[Format | None, list[File]] | Problem:
    """The entry's format (None: of each file, by its columns) and its files; `labels` reads a database."""
    try:
        if entry.format == LABELS:
            return find("align"), [labels_file(kind, entry, cache, labels)]
        form = find(entry.format) if entry.format is not None else None
        form = from_columns(entry.columns) if entry.columns is not None else form
        if found := dataset_info.look_up(entry):
            entry = found[0]
            form = form or found[1]
        return form, files_of(entry, cache)
    except FileError as error:
        return Problem(entry.path + error.place, "", error.message, whole_file=True)
    except UserError as error:
        return Problem(entry.path, "", str(error), whole_file=True)


def format_code(name: str | None) -> str | None:
    """A hash of the module of a person's own format; "" for a built-in one; None where there is no file."""
    if name in (None, LABELS) or built_in(name):
        return ""
    module = name.partition(":")[0].strip()
    if ":" not in name:
        module = next((e.module for e in entry_points(group="align.formats") if e.name == name), "")
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None


def scan_file(
    kind: type[T], path: Path, form: Format | None, split_key: str | None
) -> Iterator[Located[T] | Problem]:
    """The same for one file; places are without the file's name."""
    rows = _objects(kind, path)
    found = False
    place = ""
    try:
        for place, row in rows:
            found = True
            if isinstance(row, Problem):
                yield row
                continue
            form = form or detect(row)
            rows = chain([(place, row)], rows)
            break
        else:
            if not found:
                yield Problem("", "", "has no records", whole_file=True)
            return
        made = False
        for part in _records(kind, form, rows, split_key):
            made = True
            yield part
        if not made:
            yield Problem("", "", f"the format {form.name} finds no record in it", whole_file=True)
    except FileError as error:
        yield Problem(error.place, "", error.message, whole_file=True)
    except RecordError as error:
        yield Problem(place, error.field, error.message, whole_file=True)
    except UserError as error:
        yield Problem(place, "", str(error), whole_file=True)


ScannedRows = Iterator[tuple[str, "Mapping[str, Any] | Problem"]]


def _objects(kind: type[T], path: Path) -> ScannedRows:
    for place, row in read_rows(path):
        if isinstance(row, Mapping):
            yield place, row
        elif isinstance(row, RecordError):
            yield place, Problem(place, row.field, row.message)
        else:
            yield place, _problem(place, _own_error(kind, row))


def _records(
    kind: type[T], form: Format, rows: ScannedRows, split_key: str | None
) -> Iterator[Located[T] | Problem]:
    for place, row in gathered(form, rows):
        if isinstance(row, Problem):
            yield row
            continue
        try:
            key = None if split_key is None else _key(row, split_key)
            for record in form.read(row):
                if isinstance(record, LeftOut):
                    continue
                for part in _of_kind(kind, record, form, row):
                    if not isinstance(part, LeftOut):
                        yield Located(part, place, key or prompt_key(part.prompt))
        except RecordError as error:
            yield _problem(place, error)


def gathered(form: Format, rows: Iterator[tuple[str, Mapping[str, Any] | W]]) -> Iterator[tuple[str, Any]]:
    """The rows as the format puts them together, with their places; those that are no mapping pass by it."""
    apart: list[tuple[str, W]] = []

    def good() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for place, row in rows:
            if isinstance(row, Mapping):
                yield place, row
            else:
                apart.append((place, row))

    for placed in form.gather(good()) if form.gather else rows:
        yield from apart
        apart.clear()
        yield placed
    yield from apart


def _of_kind(kind: type[T], record: Record, form: Format, row: Mapping[str, Any]) -> Iterator[T | LeftOut]:
    try:
        return as_kind(record, kind)
    except RecordError:
        if form.name == "align":  # our own form: the key that is missing or wrong can be named
            raise _own_error(kind, row) from None
        raise


def _own_error(kind: type[T], row: Any) -> RecordError:
    """What is wrong with a row as a record of ours."""
    try:
        kind.from_dict(row)
    except RecordError as error:
        return error
    return RecordError("", f"holds more than a {kind.__name__.lower()}")


def _problem(place: str, error: RecordError) -> Problem:
    return Problem(place, error.field, error.message)


def _key(row: Mapping[str, Any], split_key: str) -> str:
    """The hash of a column's value; raises RecordError where there is none."""
    value = look_up(row, split_key)
    if value is None:
        raise RecordError(split_key, "is null, and `split_key` names it: every row needs a value")
    text = json.dumps([split_key, value], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
