"""Rows of files as they were written: JSON Lines, JSON, CSV, Parquet and Arrow, one by one.

A place is what follows the file's name in a message: ":12" is a line. EMPTY_ROW stands for a line of a table
without anything in it.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.csv_rows import EMPTY_ROW as EMPTY_ROW
from align.data.csv_rows import columns_of_numbers, csv_rows, typed_rows
from align.data.json_rows import json_lines, json_rows
from align.data.lines import WORKBOOK as WORKBOOK
from align.data.lines import FileError as FileError
from align.data.lines import Place, PlacedRow, check_opening, open_file

PACKABLE = (".jsonl", ".json", ".csv", ".tsv")
KINDS = (*PACKABLE, ".parquet", ".arrow")
PACKED = (".gz", ".zst")
WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods")
_BATCH = 256  # rows
_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException)


def kind_of(name: str) -> str | None:
    """The kind of file that a name says: ".jsonl" also for "a.JSONL.gz"; None where it says none we read."""
    stem = name.lower()
    packed = stem.endswith(PACKED)
    for suffix in PACKED:
        stem = stem.removesuffix(suffix)
    kind = next((kind for kind in KINDS if stem.endswith(kind)), None)
    return None if packed and kind not in PACKABLE else kind


def read_rows(path: Path, typed: bool = False) -> Iterator[PlacedRow]:
    """The rows of a file with their places; a row that is broken comes as a RecordError.

    `typed`: in a CSV, the columns of numbers hold numbers; without it every cell is text.
    Raises FileError where the file as a whole cannot be used, or cannot be read further.
    """
    kind = kind_of(path.name)
    if kind is None:
        raise FileError("", _no_kind(path))
    place = Place()
    try:
        if kind in (".parquet", ".arrow"):
            yield from _parquet(path) if kind == ".parquet" else _arrow(path)
            return
        numbers = _numbers(path, kind) if typed and kind in (".csv", ".tsv") else None
        with closing(open_file(path)) as stream:
            check_opening(stream, kind)
            rows = _READERS[kind](stream, place)
            yield from rows if numbers is None else typed_rows(rows, numbers)
    except _BROKEN as error:
        after = f" after line {place.line}" if place.line else ""
        reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
        raise FileError("", f"cannot be read{after}: {reason}") from error


def _no_kind(path: Path) -> str:
    """Why a file is not read whose name says no kind of ours."""
    if path.is_dir():
        return "is a folder: name a file"
    if not path.exists():
        return "no such file"
    if path.name.lower().endswith(WORKBOOKS):
        return WORKBOOK
    return (
        f"unknown kind of file: records are read from {', '.join(KINDS[:-1])} and {KINDS[-1]}, "
        "the first four also compressed (.gz, .zst)"
    )


def _numbers(path: Path, kind: str) -> dict[str, Callable[[str], int | float]]:
    """The columns of numbers, by all rows up to one where the file breaks off: that is told afterwards."""
    with suppress(*_BROKEN, FileError), closing(open_file(path)) as stream:
        check_opening(stream, kind)
        return columns_of_numbers(stream)
    return {}


def _parquet(path: Path) -> Iterator[PlacedRow]:
    with pq.ParquetFile(path) as file:
        yield from _of_batches(file.iter_batches(_BATCH), file.schema_arrow)


def _arrow(path: Path) -> Iterator[PlacedRow]:
    """A stream, as `datasets` saves and caches it, or a file with its footer, as pandas does (Feather)."""
    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            source.seek(0)
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
            yield from _of_batches(batches, file.schema)
            return
        source.seek(0)
        with pa.ipc.open_stream(source) as stream:
            yield from _of_batches(stream, stream.schema)


def _of_batches(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[PlacedRow]:
    """Rows numbered from 1; a float that is no number is null."""
    floats = [field.name for field in schema if _has_floats(field.type)]
    number = 0
    for whole in batches:
        for start in range(0, whole.num_rows, _BATCH):
            batch = whole.slice(start, _BATCH)
            try:
                rows = batch.to_pylist()
            except (ValueError, OverflowError) as error:  # text that is not UTF-8, a year beyond 9999
                span = f" rows {number + 1} to {number + batch.num_rows}"
                raise FileError(span, f"cannot be read: {str(error).splitlines()[0]}") from error
            for row in rows:
                number += 1
                yield f" row {number}", row | {name: _without_nan(row[name]) for name in floats}


def _has_floats(type_: pa.DataType) -> bool:
    inner = [type_.field(i).type for i in range(type_.num_fields)]
    return pa.types.is_floating(type_) or any(map(_has_floats, inner))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return {key: _without_nan(part) for key, part in value.items()} if isinstance(value, dict) else value


_READERS: dict[str, Callable[[io.BufferedReader, Place], Iterator[PlacedRow]]] = {
    ".jsonl": json_lines,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
}
