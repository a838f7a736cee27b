"""Records of a recipe's entries as a stream: every row is read, checked and named, and no file is held."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from align.data import dataset_info, imports
from align.data.doubts import Doubts
from align.data.formats import (
    UNUSED,
    Format,
    LeftOut,
    Record,
    as_kind,
    built_in,
    chosen,
    detect,
    find,
)
from align.data.formats.base import T
from align.data.formats.paths import look_up, without
from align.data.labels import LabelReader, labels_file, read_labels
from align.data.reading import BY_COLUMNS, Reading, Seen
from align.data.rows import EMPTY_ROW, FileError, read_rows
from align.data.sources import File, files_of
from align.errors import UserError
from align.recipe.data import LABELS, Entry
from align.records import Ranking, prompt_key
from align.values import RecordError

V = TypeVar("V")
W = TypeVar("W")
_NAME = 60  # characters that the name of a column may have
_OPENS = re.compile(  # what seems to depend on another file, or on the environment
    r"\b(open|read_(?!own)\w+|load|loadtxt|connect|urlopen|import_module|__import__|getenv)\(|\benviron\b"
)


@dataclass(frozen=True)
class Located(Generic[T]):
    """A record, where it stands ("file:12", "file row 12"), and the key that decides its side of a split.

    prompt: the hash of its prompt. key: the same, or the hash of its value of `split_key`.
    """

    record: T
    place: str
    prompt: str
    key: str


@dataclass(frozen=True)
class Problem:
    """What is wrong at a place; `field` is the part of the record, "" for all of it."""

    place: str
    field: str
    message: str
    whole_file: bool = False  # the file, or the rest of it, cannot be read: that is never skipped

    @property
    def what(self) -> str:
        """What is wrong, without the place: the same words wherever the same is wrong."""
        return f"{f'`{self.field}` ' if self.field else ''}{self.message}"

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"

    def to_dict(self) -> dict[str, str]:
        """A line of skipped.jsonl."""
        return {"place": self.place, "field": self.field, "message": self.message}


Part = Located[T] | Problem


@dataclass(frozen=True)
class How:
    """How an entry's files are read: the format (None: each file's, by its columns), and why that one."""

    form: Format | None
    why: str
    ignore: tuple[str, ...] = ()  # columns that the format does not get to see


def scan(
    kind: type[T], entries: Sequence[Entry], split_key: str | None = None, cache: Path | None = None
) -> Iterator[Part[T]]:
    """All records of the entries, and all that is wrong with them, in the order in which they stand.

    `split_key`: a column (a dotted path) whose value is the key; without it the prompt is. `cache`: see
    align.data.sources.
    """
    for entry in entries:
        opened = open_entry(kind, entry, cache)
        if isinstance(opened, Problem):
            yield opened
            continue
        how, files = opened
        for file in files:
            for part in scan_file(kind, file.path, how, split_key, Reading()):
                yield replace(part, place=file.shown + part.place)


def open_entry(
    kind: type[T], entry: Entry, cache: Path | None, labels: LabelReader = read_labels
) -> tuple[How, list[File]] | Problem:
    """How an entry's files are read, and the files; `labels` reads a database."""
    try:
        if entry.format == LABELS:
            return How(find("align"), "a labeling database"), [labels_file(kind, entry, cache, labels)]
        form: Format | None
        if described := dataset_info.look_up(entry):
            why = f"as dataset_info.json describes {entry.subset}"
            entry, form = described
        else:
            form = chosen(entry.format, entry.columns, entry.buckets)
            by_columns = entry.columns is not None and entry.format is None
            why = BY_COLUMNS if by_columns else "named in the recipe"
        how = How(form, why if form is not None else "", tuple(entry.ignore))
        return how, files_of(entry, cache)
    except FileError as error:
        return Problem(entry.path + error.place, "", error.message, whole_file=True)
    except UserError as error:
        return Problem(entry.path, "", str(error), whole_file=True)


def format_code(entry: Entry) -> str | None:
    """A hash of a person's own format, with the files that the entry says it reads; "" for a built-in one.

    None where it cannot be known what comes out: its code has no file, or it seems to open files that the
    entry does not name. Raises FileError where a file to read is not there.
    """
    name = entry.format
    if name is None or name == LABELS or built_in(name):
        return ""
    module = name.partition(":")[0].strip()
    if ":" not in name:
        module = next((e.module for e in entry_points(group="align.formats") if e.name == name), "")
    files = imports.local_files(Path(module).stem if module.endswith(".py") else module)
    if not files or (not entry.reads and any(_OPENS.search(file.read_text("utf-8")) for file in files)):
        return None
    digest = hashlib.sha256()
    for file in [*files, *map(Path, entry.reads)]:
        try:
            digest.update(hashlib.sha256(file.expanduser().read_bytes()).digest())
        except OSError as error:
            raise FileError("", f"`reads` names {file}, which cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def scan_file(
    kind: type[T], path: Path, how: How, split_key: str | None, reading: Reading
) -> Iterator[Part[T]]:
    """The same for one file; places are without the file's name. `reading` learns what was understood."""
    place, doubts = "", None
    rows = _objects(kind, path, reading, how)
    try:
        form = how.form
        for place, row in rows:
            if isinstance(row, Problem):
                yield row
                continue
            form = form or detect(row)
            reading.understood(form, how.why or _why(form, row))
            rows, place = (
                chain([(place, row)], rows),
                "",
            )  # what the format says at the end is of the whole file
            doubts = Doubts(form, how.ignore)
            yield from _records(kind, form, rows, split_key, reading, doubts)
            break
        yield from _of_file(reading)
        for where, message in doubts.of_all(reading.records) if doubts else ():
            yield Problem(where, "", message, whole_file=True)
    except FileError as error:
        yield Problem(error.place, "", error.message, whole_file=True)
    except RecordError as error:
        yield Problem(place, error.field, error.message, whole_file=True)
    except UserError as error:
        yield Problem(place, "", str(error), whole_file=True)


def _why(form: Format, row: Mapping[str, Any]) -> str:
    used = form.columns
    names = ", ".join(name for name in row if used is None or used.get(name, UNUSED) != UNUSED)
    return f"by its columns {names}"


def _of_file(reading: Reading) -> Iterator[Problem]:
    """What is wrong with a file as a whole, once all of it was read."""
    if not reading.rows:
        yield Problem("", "", "has no records", whole_file=True)
    elif not reading.records and not reading.wrong:
        reasons = "; ".join(f"{seen.count:,} × {what}" for what, seen in reading.left_out.items())
        after = f": {reasons}" if reasons else ""
        finds = f"the format {reading.format} finds no record in it" if reading.format else "has no records"
        if reading.format or reasons:  # else what is wrong with its first row has been told
            yield Problem("", "", f"{finds}{after}", whole_file=True)
    for place, name, message in reading.refused():
        yield Problem(place, name, message, whole_file=True)


ScannedRows = Iterator[tuple[str, "Mapping[str, Any] | Problem"]]


def _objects(kind: type[T], path: Path, reading: Reading, how: How) -> ScannedRows:
    """Rows with their places, less the columns to ignore."""
    for place, row in read_rows(path, typed=how.form is not None and how.form.typed):
        reading.rows += 1
        if row is EMPTY_ROW:
            reading.left_out.setdefault("an empty row of the table", Seen()).add(place)
            continue
        if isinstance(row, Mapping):
            if how.ignore:
                row = without(row, how.ignore)
            yield place, row
            continue
        reading.wrong += 1
        error = row if isinstance(row, RecordError) else _own_error(kind, row)
        yield place, _problem(place, error)


def _records(
    kind: type[T],
    form: Format,
    rows: ScannedRows,
    split_key: str | None,
    reading: Reading,
    doubts: Doubts,
) -> Iterator[Part[T]]:
    """Records and problems; `reading` counts them, and what is left out."""
    for place, row in gathered(form, noted(rows, form, reading)):
        if isinstance(row, Problem):
            yield row
            continue
        nothing = True
        try:
            key = None if split_key is None else _key(row, split_key)
            for found in form.read(row):
                nothing = False
                if isinstance(found, Ranking) and form.columns is not None:
                    _check_names(found, row)
                doubts.check(found, row, place)
                for part in (
                    [found] if isinstance(found, LeftOut) else _of_kind(kind, found, form, row, doubts)
                ):
                    if isinstance(part, LeftOut):
                        reading.left_out.setdefault(part.reason, Seen()).add(place)
                        continue
                    reading.records += 1
                    prompt = prompt_key(part.prompt)
                    yield Located(part, place, prompt, key or prompt)
        except RecordError as error:
            nothing = False
            reading.wrong += 1
            yield _problem(place, error, reading)
        if nothing:
            reading.left_out.setdefault(f"no record in it, says {form.name}", Seen()).add(place)


def _check_names(found: Ranking, row: Mapping[str, Any]) -> None:
    """Raise RecordError where responses are only the names of the columns that hold them."""
    if max(map(len, found.responses)) > _NAME:
        return
    texts = {
        str(name).casefold(): name
        for name, value in row.items()
        if isinstance(value, str) and value.strip() and value.strip().casefold() != str(name).casefold()
    }
    if all(text.strip().casefold() in texts for text in found.responses):
        names = [texts[text.strip().casefold()] for text in found.responses]
        raise RecordError(
            "",
            f"its responses are {' and '.join(repr(text) for text in found.responses)}, the names of columns "
            f"that hold texts: say `responses: [{', '.join(names)}]` and which column names the best of "
            "them, as in `columns: {prompt: …, responses: […], verdict: {best: chosen}}`",
        )


def noted(rows: Iterator[tuple[str, V]], form: Format, reading: Reading) -> Iterator[tuple[str, V]]:
    """The same rows; `reading` learns which of their columns the format uses."""
    for place, row in rows:
        if isinstance(row, Mapping):
            reading.note(place, row, form)
        yield place, row


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


def _of_kind(
    kind: type[T], record: Record, form: Format, row: Mapping[str, Any], doubts: Doubts
) -> Iterator[T | LeftOut]:
    try:
        return as_kind(record, kind)
    except RecordError as error:
        if form.name == "align":  # our own form: the key that is missing or wrong can be named
            raise _own_error(kind, row) from None
        instead = doubts.instead(row) if kind is Ranking else ""
        raise RecordError(error.field, error.message + instead) from None


def _own_error(kind: type[T], row: Any) -> RecordError:
    """What is wrong with a row as a record of ours."""
    try:
        kind.from_dict(row)
    except RecordError as error:
        return error
    return RecordError("", f"holds more than a {kind.__name__.lower()}")


def _problem(place: str, error: RecordError, reading: Reading | None = None) -> Problem:
    guess = f" (read as {reading.format}, by its columns)" if reading and reading.guessed else ""
    return Problem(place, error.field, error.message + guess)


def _key(row: Mapping[str, Any], split_key: str) -> str:
    """The hash of a column's value; raises RecordError where there is none."""
    value = look_up(row, split_key)
    if value is None:
        raise RecordError(split_key, "is null, and `split_key` names it: every row needs a value")
    text = json.dumps([split_key, value], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
