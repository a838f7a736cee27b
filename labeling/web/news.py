"""Requests that wait for the next label: they share one query of the database and hold no thread."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool

from labeling.store.engine import Store
from labeling.store.models import Label

EVERY = 0.5  # seconds between looks, while somebody waits


def newest_label(store: Store) -> int:
    """The number of the newest label; 0 where there is none."""
    with store.read() as session:
        return session.scalar(select(func.max(Label.id))) or 0


class News:
    """Tells when there is a label with a number above one that is known."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._newest = 0
        self._look: asyncio.Task[None] | None = None
        self._closed = False

    async def later_than(self, label: int, seconds: float) -> None:
        """Returns when there is a later label, at the latest after `seconds`, and at once after `close()`."""
        until = time.monotonic() + seconds
        while self._newest <= label and not self._closed and (left := until - time.monotonic()) > 0:
            if self._look is None or self._look.done():
                self._look = asyncio.create_task(self._looks())
            done, _ = await asyncio.wait({self._look}, timeout=left)
            for look in done:
                look.result()  # raises what went wrong while looking

    def close(self) -> None:
        """Let everybody go: the server stops."""
        self._closed = True

    async def _looks(self) -> None:
        await asyncio.sleep(EVERY)
        self._newest = await run_in_threadpool(newest_label, self._store)
