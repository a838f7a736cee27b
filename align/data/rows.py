"""Rows of files as they were written: JSON Lines, JSON, CSV and Parquet, plain or compressed, one by one.

Nothing here holds a whole file. A place is what follows the file's name in a message: ":12" is a line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.literals import STRICT, broken, json_value
from align.records import RecordError

KINDS = (".jsonl", ".json", ".csv", ".parquet")
PACKED = (".gz", ".zst")
LINE_LIMIT = 2**26  # bytes; a longer line is no record, and would have to lie in memory whole
_CHUNK = 2**20
_PACKED_CHUNK = 2**16  # smaller: what stands before a torn place is read
_PARQUET_ROWS = 256
_BLANK = re.compile(r"[ \t\r\n]*")
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

PlacedRow = tuple[str, Any]  # its place, and what stands there: a RecordError where that is broken


class FileError(Exception):
    """A file cannot be read, or not beyond a place; `place` is where, "" for the whole file."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


def kind_of(name: str) -> str | None:
    """The kind of file that a name says: ".jsonl" also for "a.JSONL.gz"; None where it says none we read."""
    stem = name.lower()
    packed = stem.endswith(PACKED)
    for suffix in PACKED:
        stem = stem.removesuffix(suffix)
    kind = next((kind for kind in KINDS if stem.endswith(kind)), None)
    return None if kind == ".parquet" and packed else kind


def read_rows(path: Path) -> Iterator[PlacedRow]:
    """The rows of a file with their places; a row that is broken comes as a RecordError.

    Raises FileError where the file as a whole cannot be used, or cannot be read further.
    """
    kind = kind_of(path.name)
    if kind is None and path.is_dir():
        raise FileError("", "is a folder: name a file")
    if kind is None and not path.exists():
        raise FileError("", "no such file")
    if kind is None:
        raise FileError(
            "",
            "unknown kind of file: records are read from .jsonl, .json, .csv and .parquet, "
            "the first three also compressed (.gz, .zst)",
        )
    place = _Place()
    try:
        if kind == ".parquet":
            yield from _parquet(path)
            return
        with closing(_open(path)) as stream:
            _check_opening(stream, kind)
            yield from _READERS[kind](stream, place)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        after = f" after line {place.line}" if place.line else ""
        reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
        raise FileError("", f"cannot be read{after}: {reason}") from error


class _Place:
    """The line that a reader has come to, for messages about a file that breaks off."""

    line = 0


def _open(path: Path) -> io.BufferedReader:
    name = path.name.lower()
    if name.endswith(".gz"):
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")), _PACKED_CHUNK)
    if name.endswith(".zst"):
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), _PACKED_CHUNK)
    return io.BufferedReader(path.open("rb", buffering=0), _CHUNK)


def _check_opening(stream: io.BufferedReader, kind: str) -> None:
    """Raise FileError where the first bytes are not text in UTF-8; skip a byte order mark."""
    opening = stream.peek(4)
    for magic, advice in (
        (b"\x1f\x8b", f"is compressed with gzip: name it {kind}.gz"),
        (b"\x28\xb5\x2f\xfd", f"is compressed with zstd: name it {kind}.zst"),
        (b"PK\x03\x04", "is a zip archive: unpack it"),
        (b"PAR1", "is Parquet: name it .parquet"),
    ):
        if opening.startswith(magic):
            raise FileError("", advice)
    if opening.startswith(_WIDE):
        raise FileError(":1", "not a text file in UTF-8 (it begins as UTF-16): save the file as UTF-8")
    if opening.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))


def _lines(stream: io.BufferedReader, place: _Place) -> Iterator[tuple[int, str | RecordError]]:
    """Lines, numbered from 1; bytes are split at \\n only: text mode would also count \\r and U+2028.

    A bad line before any good one is a bad file (FileError), a later one a bad record.
    """
    good = False
    while line := stream.readline(LINE_LIMIT + 1):
        place.line += 1
        if len(line) <= LINE_LIMIT:
            text = _decoded(line)
        else:
            while line and not line.endswith(b"\n"):
                line = stream.readline(_CHUNK)
            text = RecordError("", f"a line of over {LINE_LIMIT // 2**20} MiB: write one record a line")
        if isinstance(text, RecordError) and not good:
            raise FileError(f":{place.line}", text.message)
        good = good or (isinstance(text, str) and not text.isspace())
        yield place.line, text


def _decoded(line: bytes) -> str | RecordError:
    if b"\0" in line:
        return RecordError("", "not a text file in UTF-8 (it holds NUL bytes)")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return RecordError("", f"byte {error.start + 1} is not UTF-8: save the file as UTF-8")


# JSON


def _json_lines(stream: io.BufferedReader, place: _Place) -> Iterator[PlacedRow]:
    for number, line in _lines(stream, place):
        if isinstance(line, RecordError):
            yield f":{number}", line
        elif not _BLANK.fullmatch(line):
            yield f":{number}", _value(line.rstrip("\r\n"))


def _value(text: str) -> Any:
    """A text's JSON value, or a RecordError that says why it has none."""
    try:
        return json_value(text)
    except RecordError as error:
        return error


_LENIENT = json.JSONDecoder()


def _json(stream: io.BufferedReader, place: _Place) -> Iterator[PlacedRow]:
    """A list of objects, or objects one after the other; JSON Lines that are named .json too."""
    first = stream.peek(_CHUNK).lstrip().split(b"\n", 1)[0]
    if first.startswith(b"{") and isinstance(_value(first.decode("utf-8", "replace")), dict):
        yield from _json_lines(stream, place)
        return
    text = _Text(stream, place)
    in_list = text.skip("[")
    number = 0
    while not text.at_end():
        if in_list and text.skip("]"):
            if not text.at_end():
                raise FileError(f":{place.line}", "broken JSON: something follows the list")
            return
        if in_list and number and not text.skip(","):
            raise FileError(f":{place.line}", "broken JSON: a comma is missing between two items of the list")
        if text.at_end():
            break
        number += 1
        yield f":{place.line}" + (f" (item {number})" if in_list else ""), text.value()
    if in_list:
        raise FileError(f":{place.line}", "broken JSON: the file ends within its list")


class _Text:
    """A text in UTF-8 that is read as far as it is needed."""

    def __init__(self, stream: io.BufferedReader, place: _Place) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._place = place
        place.line = 1

    def at_end(self) -> bool:
        """Skip white space; whether nothing follows it."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            assert blank
            self._go(blank.end())
            if self._at < len(self._text):
                return False
            if not self._more():
                return True

    def skip(self, mark: str) -> bool:
        """Go beyond a character if it is the next one."""
        if self.at_end() or self._text[self._at] != mark:
            return False
        self._go(self._at + 1)
        return True

    def value(self) -> Any:
        """The next JSON value, a RecordError for a wrong one; FileError where its end cannot be found."""
        while True:
            value: Any
            try:
                try:
                    value, end = STRICT.raw_decode(self._text, self._at)
                except RecordError as error:
                    value, (_, end) = error, _LENIENT.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, json.JSONDecodeError):  # the value may go on beyond what was read so far
                    if len(self._text) - self._at <= LINE_LIMIT and self._more():
                        continue
                    line = self._place.line + self._text.count("\n", self._at, error.pos)
                    raise FileError(f":{line}", f"broken JSON: {error.msg}") from error
                raise FileError(f":{self._place.line}", broken(error)) from error
            if end == len(self._text) and self._more():
                continue
            self._go(end)
            return value

    def _go(self, to: int) -> None:
        self._place.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read on, at least as much as is waiting, so that a long value costs no quadratic time."""
        line = self._place.line + self._text.count("\n", self._at)
        raw = self._stream.read(max(_CHUNK, len(self._text) - self._at))
        if b"\0" in raw:
            line += raw[: raw.index(b"\0")].count(b"\n")
            raise FileError(f":{line}", "not a text file in UTF-8 (it holds NUL bytes)")
        try:
            chunk = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise FileError(f":{line}", "not UTF-8: save the file as UTF-8") from error
        self._text = self._text[self._at :] + chunk
        self._at = 0
        return bool(raw)


# Tables


def _csv(stream: io.BufferedReader, place: _Place) -> Iterator[PlacedRow]:
    """Rows under a header; an empty cell is null, and a column of JSON lists or objects is read as these."""
    csv.field_size_limit(LINE_LIMIT)
    bad: dict[int, RecordError] = {}

    def text() -> Iterator[str]:
        for number, line in _lines(stream, place):
            if isinstance(line, RecordError):
                bad[number] = line
                line = "\n"
            yield line

    lines = text()
    header = next(lines, None)
    if header is None:
        return
    # Spreadsheets of many countries separate by semicolons.
    mark = max(",;\t", key=header.count)

    def chained() -> Iterator[str]:
        yield header
        yield from lines

    reader = csv.reader(chained(), delimiter=mark, strict=True)
    columns: list[str] = []
    in_json: set[str] | None = None
    while True:
        first = reader.line_num + 1
        row: dict[str, Any] | RecordError
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not columns or "field larger" in str(error) or "end of data" in str(error):
                raise FileError(f":{first}", f"broken CSV: {error}: check its quotes") from error
            yield f":{first}", RecordError("", f"broken CSV: {error}: check its quotes")
            continue
        wrong = next((bad.pop(n) for n in range(first, reader.line_num + 1) if n in bad), None)
        if not columns and cells:
            columns = _header(cells)
        elif wrong:
            yield f":{first}", wrong
        elif len(cells) == len(columns):
            row = {name: cell or None for name, cell in zip(columns, cells, strict=True) if name}
            if in_json is None:
                in_json = {name for name, cell in row.items() if isinstance(_cell(cell), (list, dict))}
            yield f":{first}", row | {name: _cell(row[name]) for name in in_json}
        elif cells:
            message = f"has {len(cells)} cells, and the header names {len(columns)} columns"
            yield f":{first}", RecordError("", message)


def _header(cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    for i, name in enumerate(columns):
        if name and name in columns[:i]:
            raise FileError(":1", f"the column {name[:60]!r} appears twice in the header")
    return columns


def _cell(cell: str | None) -> Any:
    """The list or object that a cell holds as JSON; any other cell as it is."""
    if cell is None or not cell.startswith(("[", "{")):
        return cell
    value = _value(cell)
    return value if isinstance(value, (list, dict)) else cell


def _parquet(path: Path) -> Iterator[PlacedRow]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_PARQUET_ROWS):
            try:
                rows = batch.to_pylist()
            except (ValueError, OverflowError) as error:  # text that is not UTF-8, a year beyond 9999
                span = f" rows {number + 1} to {number + batch.num_rows}"
                raise FileError(span, f"cannot be read: {str(error).splitlines()[0]}") from error
            for row in rows:
                number += 1
                yield f" row {number}", row


_READERS: dict[str, Callable[[io.BufferedReader, _Place], Iterator[PlacedRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
}
