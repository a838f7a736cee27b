"""metrics.jsonl: one line a logged step, without gaps or doubles after a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from align.run.files import fsync, write_bytes


class JsonLines:
    """An append-only file of JSON objects, one a line; resuming cuts it at the checkpoint.

    `path` None writes nothing: all processes but the first call the same methods. What is in
    `followers` is called with each step and row after they are written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.followers: list[Callable[[int, Mapping[str, object]], None]] = []

    def append(self, step: int, row: Mapping[str, object]) -> None:
        """Write one line that carries its `step`, and tell the followers."""
        if self._path is None:
            return
        self.write({"step": step, **row})
        for follow in self.followers:
            follow(step, row)

    def write(self, row: Mapping[str, object]) -> None:
        """Write one line."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json_line(row))

    def rows(self) -> list[dict[str, object]]:
        """What has been written; nothing on the other processes."""
        if self._path is None or not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]

    def settle(self) -> int:
        """Force what was written to the disk, as a checkpoint counts on it; gives its size in bytes."""
        if self._path is not None and self._path.exists():
            fsync(self._path)
        return self.size

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._path.stat().st_size if self._path is not None and self._path.exists() else 0

    def cut(self, size: int) -> None:
        """Forget what was written after the file had `size` bytes: steps that will be done again."""
        if self.size > size and self._path is not None:
            write_bytes(self._path, self._path.read_bytes()[:size])


def json_line(row: Mapping[str, object]) -> str:
    """One line of JSON; floats that are not finite become null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(clean, ensure_ascii=False) + "\n"


def numbers(row: object) -> dict[str, float]:
    """The finite numbers of a mapping, which are all that a chart can have; of anything else none."""
    if not isinstance(row, Mapping):
        return {}
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
