"""Asking services many things at a time, by threads that nobody has to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def as_they_come(
    items: Sequence[T],
    ask: Callable[[T], R],
    most: int,
    silent: Callable[[], None] = lambda: None,
    after: float | None = None,
) -> Iterator[tuple[T, R]]:
    """Each item with what `ask` says of it, in the order of the answers, `most` of them under way at a time.

    silent: called once, where no answer came for `after` seconds. The first exception of `ask` is raised
    here. The threads are daemons and begin nothing new once the iterator is closed: who stops, or fails,
    waits for no service that hangs.
    """
    waiting: SimpleQueue[T] = SimpleQueue()
    answers: SimpleQueue[tuple[T, R] | Exception] = SimpleQueue()
    stopped = Event()
    for item in items:
        waiting.put(item)

    def work() -> None:
        while not stopped.is_set():
            try:
                item = waiting.get_nowait()
            except Empty:
                return
            try:
                answers.put((item, ask(item)))
            except Exception as error:
                answers.put(error)

    for _ in range(min(most, len(items))):
        Thread(target=work, daemon=True).start()
    try:
        for _ in items:
            try:
                found = answers.get(timeout=after)
            except Empty:
                silent()
                after = None
                found = answers.get()
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        stopped.set()
