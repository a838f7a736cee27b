"""The rows of a file that somebody sends, which may be small and hold terabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from align.data.lines import FileError, PlacedRow, open_file
from align.data.rows import PACKED, read_rows

_PART = 2**20  # bytes


def rows_within(path: Path, typed: bool, most: int | None) -> Iterator[PlacedRow]:
    """The rows as `read_rows` gives them. Raises FileError where they are over `most` bytes, unpacked.

    A packed file is looked through before its first row is read: without it a line without an end, or
    blank lines for hours, would be looked for rows. Others are counted as their rows come, since a column
    of Parquet holds a text once that stands in all rows.
    """
    if most is not None and path.name.lower().endswith(PACKED):
        _check_packed(path, most)
    size = 0
    for place, row in read_rows(path, typed=typed):
        if most is not None:
            size += _size(row)
            if size > most:
                raise FileError("", _too_much(most))
        yield place, row


def _check_packed(path: Path, most: int) -> None:
    # One that is broken is told by who reads it.
    with suppress(OSError, EOFError, zlib.error, pa.ArrowException), closing(open_file(path)) as stream:
        size = 0
        while part := stream.read(_PART):
            size += len(part)
            if size > most:
                raise FileError("", _too_much(most))


def _size(row: Any) -> int:
    """About the bytes that a row takes: a loop, for it may be nested deeply."""
    size, left = 0, [row]
    while left:
        value = left.pop()
        size += len(value) if isinstance(value, str) else 8
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
    return size


def _too_much(most: int) -> str:
    return (
        f"it holds over {most / 2**20:g} MiB when it is unpacked: give it in parts, or raise "
        "`labeling.upload_limit` in the recipe"
    )
