"""What was read or tokenised once, found again by its content: Arrow files, mapped into memory.

A file is complete or absent: it is written aside and renamed. Two processes that need the same file wait
for one another where the disk can lock, and write it twice, with the same content, where it cannot.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, overload
from weakref import WeakSet

import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray

from align.errors import UserError
from align.run.files import fsync

_ROWS, _BYTES = 1024, 2**23  # a batch ends with whichever comes first
_PART = ".part-"

Batches = list[pa.RecordBatch]
RowNumbers = NDArray[np.int64]
E = TypeVar("E")
_MAPPINGS: WeakSet[mmap.mmap] = WeakSet()  # of files that are in use


class RowSequence(Sequence[E], Generic[E]):
    """What stands in rows on disk, read when asked for: an index gives an item, a slice a list.

    `rows` may name a row several times. Equal to any sequence of equal items.
    """

    def __init__(self, rows: RowNumbers) -> None:
        self._rows = rows

    @abstractmethod
    def item(self, row: int) -> E:
        """What stands in a row of the table, not of this sequence."""

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> E: ...
    @overload
    def __getitem__(self, index: slice) -> list[E]: ...
    def __getitem__(self, index: int | slice) -> E | list[E]:
        if isinstance(index, slice):
            return [self.item(row) for row in self._rows[index].tolist()]
        return self.item(int(self._rows[index]))

    def __iter__(self) -> Iterator[E]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))


def kept(
    folder: Path | None, name: str, schema: pa.Schema, rows: Callable[[], Iterable[Sequence[Any]]]
) -> Batches:
    """The batches of the cache's file `name`, which is written from `rows` where it is not there.

    `folder` None: a temporary file that vanishes with its last batch. What `rows` raises leaves no file.
    Raises UserError where the cache cannot be written.
    """
    if folder is None:
        descriptor, temporary = tempfile.mkstemp(suffix=".arrow", prefix="align-")
        os.close(descriptor)
        try:
            _write(Path(temporary), schema, rows())
            return _mapped(Path(temporary))
        finally:
            os.unlink(temporary)
    path = folder / name
    found = _found(path, schema)
    if found is not None:
        return found
    # The lock's empty file stays: were it removed, two processes could hold locks on files of one name.
    lock = FileLock(path.with_name(path.name + ".lock"), fallback_to_soft=False)
    with in_cache(path), ExitStack() as held:
        with suppress(OSError):  # a disk without locks, or a lock of another account
            held.enter_context(lock)
        found = _found(path, schema)
        if found is not None:
            return found
        if lock.is_locked:
            for left in path.parent.glob(f"{path.name}{_PART}*"):
                left.unlink(missing_ok=True)
        aside = path.with_name(f"{path.name}{_PART}{os.getpid()}-{secrets.token_hex(4)}")
        try:
            _write(aside, schema, rows())
            fsync(aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        return _mapped(path)


@contextmanager
def in_cache(path: Path) -> Iterator[None]:
    """Make the folder of a file in the cache; UserError where it, or the file, cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0]
        raise UserError(
            f"the cache {path.parent} cannot be written ({why}): choose another folder by data.cache"
        ) from error


def content_key(**parts: Any) -> str:
    """A sha256 over named values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_of(*names: str) -> str:
    """A sha256 over source files of this package, "data/rows.py" or "data/formats/*.py".

    What they wrote is not found again once they have changed: nobody has to remember a version number.
    """
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for name in names for path in package.glob(name)):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def starts_of(batches: Batches) -> NDArray[np.int64]:
    """The number of the first row of each batch."""
    sizes = np.array([batch.num_rows for batch in batches], dtype=np.int64)
    return np.cumsum(sizes) - sizes


def _found(path: Path, schema: pa.Schema) -> Batches | None:
    """The batches of a file that is there and whole."""
    try:
        found = _mapped(path)
    except (OSError, ValueError, pa.ArrowException):  # ValueError: an empty file
        return None
    return found if all(batch.schema.equals(schema) for batch in found) else None


def _mapped(path: Path) -> Batches:
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPPINGS.add(mapping)
    reader = pa.ipc.open_file(pa.py_buffer(mapping))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def let_go() -> None:
    """Give back the memory that what was read of mapped files takes; what is read again comes from the disk.

    The system does so where memory is short; whoever reads through a large file once need not wait for that.
    """
    for mapping in list(_MAPPINGS):
        mapping.madvise(mmap.MADV_DONTNEED)


def _write(path: Path, schema: pa.Schema, rows: Iterable[Sequence[Any]]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        columns: list[list[Any]] = [[] for _ in schema]
        size = 0

        def flush() -> None:
            arrays = [_array(c, field.type) for c, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            for column in columns:
                column.clear()

        for row in rows:
            for column, value in zip(columns, row, strict=True):
                column.append(value)
                size += len(value) if hasattr(value, "__len__") else 8
            if len(columns[0]) == _ROWS or size > _BYTES:
                flush()
                size = 0
        if columns[0]:
            flush()


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """What pa.array makes; it would import pandas, to ask whether the values are of that kind."""
    if kind == pa.string():
        texts = pa.lib.StringBuilder()
        texts.append_values(values)
        return texts.finish()
    if pa.types.is_fixed_size_binary(kind):
        return _from_bytes(kind, len(values), b"".join(values))
    if kind == pa.int32():
        return _from_bytes(kind, len(values), np.array(values, dtype=np.int32))
    if kind != pa.list_(pa.int32()):
        return pa.array(values, kind)
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    flat = np.concatenate(values).astype(np.int32) if values else np.empty(0, np.int32)
    items = _from_bytes(pa.int32(), len(flat), flat)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(ends)], children=[items])


def _from_bytes(kind: pa.DataType, count: int, content: Any) -> pa.Array:
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(content)])
