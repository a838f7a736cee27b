"""Where the time of a step goes: seconds by part, in metrics.jsonl."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Clock:
    """Seconds by part; `clock("sample")` ends a part, and the next begins."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._parts: dict[str, float] = {}

    def __call__(self, part: str) -> float:
        """What has passed since the last call was `part`; gives the seconds."""
        now = time.monotonic()
        self._parts[part] = now - self._last
        self._last = now
        return self._parts[part]

    def metrics(self) -> dict[str, float]:
        """Seconds by part, by their names in metrics.jsonl."""
        return {f"seconds/{part}": value for part, value in self._parts.items()}

    def other(self, parts: Mapping[str, float]) -> dict[str, float]:
        """What the parts leave of the time since the last call: evaluation, samples, checkpoint, metrics."""
        now = time.monotonic()
        known = sum(value for name, value in parts.items() if name.startswith("seconds/"))
        spent, self._last = now - self._last, now
        return {"seconds/other": max(spent - known, 0.0)}
