"""Records that lie on disk, seen as sequences: a row of an Arrow file becomes a record when asked for."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.data.formats.base import T
from align.data.reading import Reading
from align.data.scan import Located, Problem
from align.data.store import Batches, RowNumbers, RowSequence, starts_of

_HASH = 32  # bytes
_NONE = bytes(_HASH)
_FIRST = 100  # rows among which the first ones with different prompts are looked for
_HASHES = ("digest", "prompt", "key")
SCHEMA = pa.schema(
    [
        ("text", pa.string()),  # the record as JSON, null for a problem
        ("digest", pa.binary(_HASH)),  # sha256 of the text
        ("prompt", pa.binary(_HASH)),  # of its prompt
        ("key", pa.binary(_HASH)),  # what decides its side: the prompt, or the value of split_key
        ("place", pa.string()),  # without the file's name: a file is the same wherever it lies
        ("problem", pa.string()),  # [field, message] as JSON
        ("reading", pa.string()),  # in the last row, which is neither: how the file was understood, as JSON
    ]
)


def text_of(record: Any) -> str:
    """A record as JSON, whose SHA-256 is its ID."""
    return json.dumps(record.to_dict(), sort_keys=True, ensure_ascii=False)


def row_of(part: Located[Any] | Problem) -> tuple[Any, ...]:
    """A record or a problem as a row of SCHEMA."""
    if isinstance(part, Problem):
        return None, _NONE, _NONE, _NONE, part.place, json.dumps([part.field, part.message]), None
    text = text_of(part.record)
    digest = hashlib.sha256(text.encode()).digest()
    return text, digest, bytes.fromhex(part.prompt), bytes.fromhex(part.key), part.place, None, None


def reading_row(reading: Reading) -> tuple[Any, ...]:
    """The last row of a file: what it was understood as."""
    return None, _NONE, _NONE, _NONE, "", None, json.dumps(reading.to_dict())


@dataclass(frozen=True)
class Part:
    """One file of an entry, as it was read."""

    batches: Batches
    name: str  # the file's, in messages
    weight: float
    held_out: bool  # by the recipe

    @property
    def reading(self) -> Reading:
        """What the file was understood as; places with the file's name."""
        return Reading.from_dict(json.loads(self.batches[-1].column("reading")[-1].as_py()), self.name)


class Table:
    """The rows of several files one after the other, with what decides where each one goes.

    `digests`, `prompts`, `keys` [N]: the first 64 bits of each row's hashes; `good` [N]: no problem;
    `weights`, `held_out` [N]: of the entry.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        pairs = [(part, batch) for part in parts for batch in part.batches]
        self.batches: Batches = [batch for _, batch in pairs]
        self._names = [part.name for part, _ in pairs]
        self._starts = starts_of(self.batches).tolist()
        sizes = [batch.num_rows for batch in self.batches]
        self.digests, self.prompts, self.keys = (
            _join([_first_64(self.hashes(i, name)) for i in range(len(pairs))], np.uint64) for name in _HASHES
        )
        self.good = _join([valid(batch.column("text")) for batch in self.batches], np.bool_)
        self.weights = np.repeat(np.array([part.weight for part, _ in pairs], dtype=np.float64), sizes)
        self.held_out = np.repeat(np.array([part.held_out for part, _ in pairs], dtype=np.bool_), sizes)

    def hashes(self, batch: int, name: str) -> NDArray[np.uint8]:
        """One column of hashes of one batch [rows, 32]."""
        column = self.batches[batch].column(name)
        flat = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        return flat[column.offset * _HASH : (column.offset + len(column)) * _HASH].reshape(-1, _HASH)

    def text(self, row: int) -> str:
        """A good row's record, as JSON."""
        batch, i = self._at(row)
        return str(self.batches[batch].column("text")[i].as_py())

    def digest(self, row: int) -> str:
        """The SHA-256 of a good row's text: the record's ID."""
        batch, i = self._at(row)
        return self.hashes(batch, "digest")[i].tobytes().hex()

    def place(self, row: int) -> str:
        """Where a row stands: "file:12"."""
        batch, i = self._at(row)
        return self._names[batch] + str(self.batches[batch].column("place")[i].as_py())

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the rows that are no records."""
        wrong = _join([valid(batch.column("problem")) for batch in self.batches], np.bool_)
        for row in np.flatnonzero(wrong).tolist():
            batch, i = self._at(row)
            field, message = json.loads(self.batches[batch].column("problem")[i].as_py())
            yield Problem(self.place(row), field, message)

    def first_rows(self, count: int) -> Iterator[tuple[Part, RowNumbers]]:
        """The numbers of each file's first good rows: with different prompts, as far as there are such."""
        start = 0
        for part in self.parts:
            end = start + sum(batch.num_rows for batch in part.batches)
            good = start + np.flatnonzero(self.good[start:end])[:_FIRST]
            _, first = np.unique(self.prompts[good], return_index=True)
            others = np.setdiff1d(np.arange(len(good)), first)
            yield part, good[np.sort(np.concatenate([np.sort(first), others])[:count])]
            start = end

    def digest_of(self, rows: RowNumbers) -> str:
        """A sha256 over the hashes of these records (rows ascending)."""
        digest = hashlib.sha256(f"{len(rows)} records\n".encode())
        bounds = np.searchsorted(rows, [*self._starts, len(self.good)]).tolist()
        for i, start in enumerate(self._starts):
            inside = rows[bounds[i] : bounds[i + 1]] - start
            digest.update(self.hashes(i, "digest")[inside].tobytes())
        return digest.hexdigest()

    def _at(self, row: int) -> tuple[int, int]:
        batch = bisect_right(self._starts, row) - 1
        return batch, row - self._starts[batch]


class Records(RowSequence[T], Generic[T]):
    """Records of a table: those of `rows`, which ascend, and name a record several times where it has weight.

    See RowSequence.
    """

    def __init__(self, kind: type[T], table: Table, rows: RowNumbers) -> None:
        super().__init__(rows)
        self._kind: type[T] = kind
        self._table = table

    def item(self, row: int) -> T:
        """The record of a row of the table."""
        return self._kind.from_checked(json.loads(self._table.text(row)))

    def __repr__(self) -> str:
        return f"<{len(self)} records of kind {self._kind.__name__}>"

    def place(self, index: int) -> str:
        """Where a record stands: "file:12"."""
        return self._table.place(int(self._rows[index]))

    def digest(self, index: int) -> str:
        """A record's ID: the SHA-256 of its text."""
        return self._table.digest(int(self._rows[index]))

    @property
    def prompts(self) -> NDArray[np.uint64]:
        """The first 64 bits of the hash of each record's prompt [N]."""
        return self._table.prompts[self._rows]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The same of what decides each record's side: its prompt, or its value of split_key [N]."""
        return self._table.keys[self._rows]

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over the records in their order; names and places of files do not count."""
        return self._table.digest_of(self._rows)

    def distinct(self) -> tuple[Records[T], RowNumbers]:
        """Each record once, and where each of these is among them."""
        rows, index = np.unique(self._rows, return_inverse=True)
        return Records(self._kind, self._table, rows), index

    def only(self, chosen: NDArray[np.bool_]) -> Records[T]:
        """Those records for which `chosen` [N] is true."""
        return Records(self._kind, self._table, self._rows[chosen])


def valid(column: pa.Array) -> NDArray[np.bool_]:
    """Which values are not null. (pyarrow's own ways import its compute kernels, or pandas.)"""
    if not column.null_count:
        return np.ones(len(column), dtype=np.bool_)
    bits = np.unpackbits(np.frombuffer(column.buffers()[0], dtype=np.uint8), bitorder="little")
    return bits[column.offset : column.offset + len(column)].astype(np.bool_)


def _first_64(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return hashes[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)


def _join(arrays: list[Any], dtype: Any) -> Any:
    return np.concatenate(arrays).astype(dtype) if arrays else np.empty(0, dtype)
