"""An answer on its way to a page: lines of JSON, until it is there, stopped, or nobody reads on."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from align.errors import UserError
from labeling.companion import Absent, Companion, Event
from labeling.language import gettext

_OF_ONE = 2  # answers that a person waits for: the one of a page that was left, and the next one


class Stops:
    """The answers that are on their way, each with what stops it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[int, str], threading.Event] = {}

    def begin(self, person: int, ask: str) -> threading.Event:
        """For an answer that a person asks for under a name of their page's.

        Raises UserError where that one, or as many as a person may have, are on their way: places are few.
        """
        with self._lock:
            many = sum(who == person for who, _ in self._running) >= _OF_ONE
            if many or (person, ask) in self._running:
                raise UserError(
                    gettext("You wait for other answers already: stop them, or wait until they are there.")
                )
            self._running[person, ask] = found = threading.Event()
            return found

    def stop(self, person: int, ask: str) -> bool:
        """Whether this answer of theirs was on its way."""
        running = self._running.get((person, ask))
        if running is not None:
            running.set()
        return running is not None

    def end(self, person: int, ask: str) -> None:
        """The answer is there, or nobody wants it any more."""
        with self._lock:
            self._running.pop((person, ask), None)


class Streamed(StreamingResponse):
    """The companion's events as lines; when the reader goes, the policy is stopped and free for the next one.

    `last` makes the last line of the last event. What goes wrong meanwhile is a last line, too, with `error`.
    Raises Absent where too many wait.
    """

    def __init__(
        self, events: Iterator[Event], last: Callable[[Event], dict[str, Any]], done: Callable[[], None]
    ) -> None:
        self._events, self._last, self._done = events, last, done
        try:
            self._first = next(events)
        except BaseException:
            done()
            raise
        headers = {"X-Accel-Buffering": "no"}  # nginx would gather the lines
        super().__init__(self._lines(), media_type="application/x-ndjson", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As StreamingResponse; however that ends, the policy is let go."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()
            # In a thread: it waits until the policy has stopped, and the reader may be gone.
            threading.Thread(target=self._close, daemon=True).start()

    async def _lines(self) -> AsyncIterator[str]:
        yield _line(self._first)
        while True:
            event = await run_in_threadpool(self._next)
            yield _line(event)
            if "waiting" not in event and "piece" not in event:
                return

    def _next(self) -> dict[str, Any]:
        try:
            event = next(self._events)
            return self._last(event) if "texts" in event else event
        except Absent as error:
            return {"error": str(error), "status": 503}
        except UserError as error:
            return {"error": str(error), "status": 409}

    def _close(self) -> None:
        close: Callable[[], None] = getattr(self._events, "close", lambda: None)
        close()


def talk(
    companion: Companion,
    stops: Stops,
    person: int,
    ask: str,
    asked: tuple[list[dict[str, str]], int],
    sides: list[int],
    last: Callable[[Event], dict[str, Any]],
) -> Streamed:
    """The answers of the policies `sides` to a conversation at a turn."""
    stop = stops.begin(person, ask)
    events = companion.talk(*asked, stop, sides)
    return Streamed(events, last, lambda: stops.end(person, ask))


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event) + "\n"
