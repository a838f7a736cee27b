"""Rows of a table that is text: comma, semicolon, tab or bar between the cells, as spreadsheets save it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from align.data.lines import LINE_LIMIT, FileError, Place, PlacedRow, lines
from align.values import RecordError

EMPTY_ROW: Final = object()  # in a row's stead: a line of the table in which every cell is empty
MARKS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*\s*', re.IGNORECASE)  # Excel's first line
_JSON = re.compile(r'\s*\[?\s*\{\s*"?\w+"?\s*:')
_QUOTED = re.compile(r'"[^"]*"?')
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,299})", re.ASCII)
_POINT = re.compile(r"-?(0|[1-9]\d{0,299})(\.\d{1,299})?(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_COMMA = re.compile(r"-?(0|[1-9]\d{0,299})(,\d{1,299})?", re.ASCII)
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2},\d{3}", re.ASCII)

Numbers = dict[str, Callable[[str], int | float]]  # the columns of numbers, and how each is read


def csv_rows(stream: io.BufferedReader, place: Place) -> Iterator[PlacedRow]:
    """Rows under a header: a cell is text, or null where it is empty; EMPTY_ROW where all of them are."""
    for where, row, _ in _table(stream, place):
        yield where, row


def typed_rows(found: Iterator[PlacedRow], numbers: Numbers) -> Iterator[PlacedRow]:
    """The rows with numbers in the columns of numbers."""
    for where, row in found:
        if isinstance(row, dict):
            row = row | {name: to(row[name]) for name, to in numbers.items() if row.get(name) is not None}
        yield where, row


def columns_of_numbers(stream: io.BufferedReader) -> Numbers:
    """The columns in which every cell that is not empty is a number as a program writes it.

    So 007 and +49 make a column of texts. A decimal comma counts where cells are not set apart by commas,
    unless each one may as well set thousands apart, as in 1,000.
    """
    found: dict[str, _Column] = {}
    with suppress(FileError):  # it is told when the rows are read
        for _, row, mark in _table(stream, Place()):
            for name, cell in row.items() if isinstance(row, dict) else ():
                column = found.setdefault(name, _Column(comma=mark != ","))
                if cell is not None:
                    column.add(cell)
    return {name: read for name, column in found.items() if (read := column.reader()) is not None}


OLD_LINE_ENDS = (
    "its lines end with a carriage return alone, as old Macintosh programs end them: save it as plain CSV "
    "(in Excel, 'CSV UTF-8')"
)
NO_TABLE = "begins as JSON does, and a table begins with the names of its columns: name the file .jsonl"
QUALTRICS = (
    "is the third header row of a Qualtrics export ({'ImportId': …}): delete it and the row above it, so "
    "that one row of names is left"
)


@dataclass
class _Column:
    """What all cells of a column can be read as, so far."""

    comma: bool
    whole: bool = True
    point: bool = True
    empty: bool = True
    fraction: bool = False  # a comma in it cannot set thousands apart

    def add(self, cell: str) -> None:
        self.empty = False
        if _WHOLE.fullmatch(cell):
            return
        self.whole = False
        self.point = self.point and bool(_POINT.fullmatch(cell)) and math.isfinite(float(cell))
        self.comma = self.comma and bool(_COMMA.fullmatch(cell))
        self.fraction = self.fraction or not _THOUSANDS.fullmatch(cell)

    def reader(self) -> Callable[[str], int | float] | None:
        """How a cell becomes a number; None where the column is text."""
        if self.empty:
            return None
        if self.whole:
            return int
        if self.point:
            return float
        return _with_comma if self.comma and self.fraction else None


def _with_comma(cell: str) -> float:
    return float(cell.replace(",", "."))


def _table(stream: io.BufferedReader, place: Place) -> Iterator[tuple[str, Any, str]]:
    """The rows with their places, and the mark between cells."""
    csv.field_size_limit(LINE_LIMIT)
    bad: dict[int, RecordError] = {}

    def text() -> Iterator[str]:
        for number, line in lines(stream, place):
            if isinstance(line, RecordError):
                bad[number] = line
                line = "\n"
            yield line

    rest = text()
    before: list[str] = []
    mark = None
    for line in rest:
        given = _SEPARATOR.fullmatch(line) if mark is None and not "".join(before).strip() else None
        mark = given[1] if given else mark
        before.append("\n" if given else line)
        if not given and line.strip(MARKS + " \r\n"):
            break
    mark = mark or max(MARKS, key=_QUOTED.sub("", before[-1] if before else "").count)
    reader = csv.reader(chain(before, rest), delimiter=mark, strict=True)
    columns: list[str] = []
    unnamed: list[int] = []
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line character" in str(error):
                raise FileError(f":{first}", OLD_LINE_ENDS) from error
            if not columns or "field larger" in str(error) or "end of data" in str(error):
                raise FileError(f":{first}", f"broken CSV: {error}: check its quotes") from error
            yield f":{first}", RecordError("", f"broken CSV: {error}: check its quotes"), mark
            continue
        wrong = next((bad.pop(n) for n in range(first, reader.line_num + 1) if n in bad), None)
        if wrong:
            yield f":{first}", wrong, mark
        elif not any(map(str.strip, cells)):
            if columns and cells:
                yield f":{first}", EMPTY_ROW, mark
        elif not columns:
            columns = _header(cells, first)
            unnamed = [
                i for i, name in enumerate(columns) if i and not name
            ]  # the first may be pandas' index
        elif all(cell.startswith('{"ImportId"') for cell in cells if cell.strip()):
            raise FileError(f":{first}", QUALTRICS)
        elif len(cells) < len(columns) or any(map(str.strip, cells[len(columns) :])):
            message = f"has {len(cells)} cells, and the header names {len(columns)} columns"
            yield f":{first}", RecordError("", message), mark
        elif (nameless := _nameless(cells, unnamed)) is not None:
            yield f":{first}", nameless, mark
        else:
            row = {name: cell or None for name, cell in zip(columns, cells, strict=False) if name}
            yield f":{first}", row, mark


def _nameless(cells: list[str], unnamed: list[int]) -> RecordError | None:
    """What is wrong where a cell without a column's name holds more than a number; None: nothing."""
    found = next((i for i in unnamed if (cell := cells[i].strip()) and not _POINT.fullmatch(cell)), None)
    if found is None:
        return None
    where = f"{cells[found].strip()[:40]!r} in column {found + 1}"
    return RecordError("", f"has {where}, which has no name in the header: name it there, or delete it")


def _header(cells: list[str], line: int) -> list[str]:
    if _JSON.match(",".join(cells)):
        raise FileError(f":{line}", NO_TABLE)
    columns = [cell.strip() for cell in cells]
    while not columns[-1]:
        columns.pop()
    for i, name in enumerate(columns):
        if name and name in columns[:i]:
            raise FileError(f":{line}", f"the column {name[:60]!r} appears twice in the header: rename one")
    return columns
