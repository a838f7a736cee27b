"""SIGTERM and SIGINT while a stage trains: it saves what is done, and ends in time.

A first signal is noted. Where nothing changes that a checkpoint holds it is acted on at once, elsewhere
between two steps. A thread receives the signals too, because Python's handlers wait for the main thread, and
that may hang in a collective: it ends the process when the time is over, at a second signal, and at the first
where another process has failed.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from align.errors import Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = 1.0  # seconds; a stage that ends sooner prints nothing
_ECHO = 2.0  # seconds in which a launcher hands on the signal that the whole process group has had already


class _Told:
    """The signals that this process has received."""

    number = 0  # the first signal
    raises = False  # whether one may be acted on at once


_told = _Told()


def told() -> int:
    """The signal that told this process to stop, or 0."""
    return _told.number


def stop(number: int) -> NoReturn:
    """Raise the exception that gives the signal's exit code."""
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def heeded(grace: float, speaks: bool) -> Iterator[None]:
    """Note signals in this block instead of raising; leaving it raises what was noted and not acted on.

    grace: seconds from the first signal to the end of the process. speaks: whether it says so on stderr.
    Only the main thread can do this; in others the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _told.number, _told.raises = 0, False
    # A program started with `nohup … &` ignores SIGINT, and so does this.
    heard = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, _note) for one in heard}
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours, grace, speaks), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for one, handler in before.items():
            signal.signal(one, handler)
        theirs.close()
        watcher.join()
        ours.close()
        number, _told.number = _told.number, 0
    if number:
        stop(number)


@contextmanager
def at_once() -> Iterator[None]:
    """A block that a signal may end anywhere: whatever it changes can be done again."""
    _told.raises = True
    try:
        if _told.number:
            stop(_told.number)
        yield
    finally:
        _told.raises = False


def _note(number: int, frame: FrameType | None) -> None:
    _told.number = _told.number or number
    if _told.raises:
        _told.raises = False
        stop(number)


def _watch(signals: socket.socket, grace: float, speaks: bool) -> None:
    """Ends the process `grace` seconds after the first signal, or at the second."""
    number, first, noticed = 0, 0.0, not speaks
    launched = "RANK" in os.environ
    while True:
        limit = first + (grace if noticed else min(_NOTICE, grace))
        signals.settimeout(max(limit - time.monotonic(), 1e-3) if number else None)
        try:
            read = signals.recv(1)
        except TimeoutError:
            if time.monotonic() >= first + grace:
                _end(number, f"the step at hand took longer than run.grace ({grace:g} s)", speaks)
            _say(f"a checkpoint is saved first, within {grace:g} s; a second signal stops at once", speaks)
            noticed = True
            continue
        if not read:
            return
        if read[0] not in _SIGNALS:
            continue
        if not number:
            number, first = int(read[0]), time.monotonic()
            if _another_failed():
                os._exit(
                    128 + number
                )  # no step can be finished without it, and the main thread may wait for it
        elif not launched or time.monotonic() > first + _ECHO:
            _end(number, "a second signal came", speaks)


def _another_failed() -> bool:
    """Whether a process of this run has told why the run ends (see align.cli.failures)."""
    path = os.environ.get("ALIGN_EXIT_FILE")
    return path is not None and os.path.exists(path + ".told")


def _end(number: int, why: str, speaks: bool) -> NoReturn:
    _say(f"{why}; the same command goes on from the last checkpoint", speaks)
    os._exit(128 + number)


def _say(text: str, speaks: bool) -> None:
    if speaks:
        os.write(2, f"stopping: {text}\n".encode())
