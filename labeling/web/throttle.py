"""Slows guessing, and locks nobody out from elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_MOST_KEYS = 10_000
_FORGOTTEN = 3600.0  # seconds after the last failure
_LONGEST_DELAY = 5.0


class Throttle:
    """After some failures a key has to wait, twice as long each time; an hour later they are forgotten."""

    def __init__(
        self, free: int = 5, longest: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._free, self._longest, self._clock = free, longest, clock
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, *keys: str) -> float:
        """Seconds until the next try is looked at."""
        with self._lock:
            return max((self._until(key) - self._clock() for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        """Count one more failure for each."""
        with self._lock:
            if len(self._failures) > _MOST_KEYS:
                oldest = sorted(self._failures, key=lambda key: self._failures[key][1])
                for key in oldest[: _MOST_KEYS // 2]:
                    del self._failures[key]
            for key in keys:
                self._failures[key] = (self._count(key) + 1, self._clock())

    def took_back(self, key: str) -> None:
        """One failure was none."""
        with self._lock:
            count, last = self._failures.get(key, (0, 0.0))
            if count:
                self._failures[key] = (count - 1, last)

    def succeeded(self, *keys: str) -> None:
        """Forget their failures."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _count(self, key: str) -> int:
        count, last = self._failures.get(key, (0, 0.0))
        return count if self._clock() - last < _FORGOTTEN else 0

    def _until(self, key: str) -> float:
        count, last = self._count(key), self._failures.get(key, (0, 0.0))[1]
        return last + min(self._longest, 2.0 ** (count - self._free)) if count >= self._free else 0.0


class Door:
    """Who may try a password now.

    Failures count for a name *and* the place it is tried from, so that nobody locks a name for others; for
    each address, which tries many names; and everywhere: when much is guessed, every try by a browser that
    nobody signed in with takes some seconds, and none is refused for it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs = Throttle(5, clock=clock)
        self._addresses = Throttle(20, clock=clock)
        self._everywhere: deque[float] = deque(maxlen=1000)
        self._lock = threading.Lock()

    def enter(self, name: str, address: str, device: str | None = None) -> float:
        """Seconds to wait before a try; 0 lets it in, as a failure until `succeeded`, so that none slips by.

        device: what a browser is known by that this name has signed in with; its address counts nothing.
        """
        pair = self._pair(name, address, device)
        with self._lock:
            wait = self._pairs.wait(pair)
            if device is None:
                wait = max(wait, self._addresses.wait(address))
            if wait > 0:
                return wait
            self._pairs.failed(pair)
            if device is None:
                self._addresses.failed(address)
                self._everywhere.append(self._clock())
        return 0.0

    def delay(self, device: str | None = None) -> float:
        """Seconds that a try takes because of what was guessed everywhere in the last minute."""
        if device is not None:
            return 0.0
        with self._lock:
            recent = sum(self._clock() - moment < 60 for moment in self._everywhere)
        return min(_LONGEST_DELAY, max(0, recent - 30) / 10)

    def succeeded(self, name: str, address: str, device: str | None = None) -> None:
        """It was the right password. Of the address only this try is forgotten: others may guess there."""
        self._pairs.succeeded(self._pair(name, address, device))
        if device is None:
            self._addresses.took_back(address)
            with self._lock:
                if self._everywhere:
                    self._everywhere.pop()

    @staticmethod
    def _pair(name: str, address: str, device: str | None) -> str:
        place = f"browser {device}" if device else f"address {address}"
        return f"{place} {' '.join(name.split())}"
