"""Files as bytes: opened plain or compressed, checked to be text in UTF-8, and cut into lines."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from align.values import RecordError

LINE_LIMIT = 2**26  # bytes; a longer line is no record, and would have to lie in memory whole
CHUNK = 2**20
_PACKED_CHUNK = 2**16  # smaller: what stands before a torn place is read
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SHEET = (b"[Content_Types].xml", b"docProps/", b"_rels/", b"xl/", b"oasis.opendocument.spreadsheet")
WORKBOOK = "is a workbook of a spreadsheet: save its sheet as CSV (in UTF-8), and name that file"

PlacedRow = tuple[str, Any]  # its place, and what stands there: a RecordError where that is broken


class FileError(Exception):
    """A file cannot be read, or not beyond a place; `place` is where, "" for the whole file."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class Place:
    """The line that a reader has come to, for messages about a file that breaks off."""

    line = 0


def open_file(path: Path) -> io.BufferedReader:
    """A file's bytes, unpacked."""
    name = path.name.lower()
    if name.endswith(".gz"):
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path, "rb")), _PACKED_CHUNK)
    if name.endswith(".zst"):
        import pyarrow as pa  # it brings numpy, which whoever reads no such file spares

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), _PACKED_CHUNK)
    return io.BufferedReader(path.open("rb", buffering=0), CHUNK)


def check_opening(stream: io.BufferedReader, kind: str) -> None:
    """Raise FileError where the first bytes are not text in UTF-8; skip a byte order mark."""
    opening = stream.peek(4)
    if opening.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        sheet = opening.startswith(b"\xd0") or any(part in opening[:200] for part in _SHEET)
        raise FileError("", WORKBOOK if sheet else "is a zip archive: unpack it")
    for magic, advice in (
        (b"\x1f\x8b", f"is compressed with gzip: name it {kind}.gz"),
        (b"\x28\xb5\x2f\xfd", f"is compressed with zstd: name it {kind}.zst"),
        (b"PAR1", "is Parquet: name it .parquet"),
        (b"ARROW1", "is Arrow: name it .arrow"),
    ):
        if opening.startswith(magic):
            raise FileError("", advice)
    if opening.startswith(_WIDE):
        raise FileError(":1", "not a text file in UTF-8 (it begins as UTF-16): save the file as UTF-8")
    if opening.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))


def lines(stream: io.BufferedReader, place: Place) -> Iterator[tuple[int, str | RecordError]]:
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
                line = stream.readline(CHUNK)
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
