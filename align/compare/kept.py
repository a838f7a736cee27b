"""Rows that are kept as they come, a chunk at a time: a command that was killed goes on with the next chunk.

What a chunk is worth to the last bit depends on what it is made of, so chunks are always the same ones, and
half a chunk counts for nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from align.errors import UserError
from align.run.metrics import json_line
from align.run.progress import ProgressBar

T = TypeVar("T")
Row = dict[str, Any]
CHUNK = 16  # prompts whose answers are kept together: what a kill can cost


def kept_rows(
    path: Path,
    items: Sequence[T],
    each: int,
    chunk: int,
    make: Callable[[Sequence[T]], list[Row]],
    bar: ProgressBar | None = None,
) -> list[Row]:
    """`each` rows for every item, in the items' order, as `make` gives them for `chunk` items at a time.

    Rows of whole chunks that the file has are read, what follows them is cut off, the others are made and
    written. The file's name has to say all that decides its rows.
    """
    rows = _whole_chunks(path, len(items), each, chunk)
    path.parent.mkdir(parents=True, exist_ok=True)
    if bar is not None and rows:
        bar.advance(count=len(rows) // each)
    with path.open("a", encoding="utf-8") as file:
        for start in range(len(rows) // each, len(items), chunk):
            part = items[start : start + chunk]
            lines = [json_line(row) for row in make(part)]
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
            rows += [json.loads(line) for line in lines]  # as the next start will read them
            if bar is not None:
                bar.advance(count=len(part))
    return rows


def _whole_chunks(path: Path, count: int, each: int, chunk: int) -> list[Row]:
    """The rows of a file's whole chunks; what is behind them is cut off."""
    if not path.exists():
        return []
    rows: list[Row] = []
    sizes = [0]
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            rows.append(json.loads(line))
        except ValueError:
            break
        sizes.append(sizes[-1] + len(line))
    done = min(len(rows) // each, count)
    whole = (done if done == count else done // chunk * chunk) * each
    if sizes[whole] < path.stat().st_size:
        os.truncate(path, sizes[whole])
    return rows[:whole]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder while the block runs; UserError where another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another align works in {folder}: wait for it") from None
    try:
        yield
    finally:
        lock.release()
