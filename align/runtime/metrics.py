"""metrics.jsonl: one line a logged step, without gaps or doubles after a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from align.runtime.files import write_text


class JsonLines:
    """An append-only file of JSON objects that carry a `step`.

    `path` None writes nothing: all processes but the first call the same methods.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def append(self, step: int, row: Mapping[str, object]) -> None:
        """Write one line."""
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json_line({"step": step, **row}))

    def rewind(self, step: int) -> None:
        """Forget lines of later steps than `step`, and a line that a kill cut short."""
        if self._path is None or not self._path.exists():
            return
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _step(line) <= step]
        if len(kept) < len(lines):
            write_text(self._path, b"".join(kept).decode())


def json_line(row: Mapping[str, object]) -> str:
    """One line of JSON; floats that are no numbers become null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(clean, ensure_ascii=False) + "\n"


def _step(line: bytes) -> float:
    if not line.endswith(b"\n"):
        return math.inf
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
