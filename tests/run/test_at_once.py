"""Many questions at a time: what comes, in what order, what fails, and what nobody waits for."""

from __future__ import annotations

import threading
import time

import pytest

from align.run.at_once import as_they_come


def test_answers_come_as_they_are_there_and_no_more_are_under_way_than_may_be() -> None:
    under_way, most, lock = 0, 0, threading.Lock()
    last = threading.Event()

    def ask(item: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if item == 0:
            last.wait(10)  # the slow one is answered when all others are
        with lock:
            under_way -= 1
        return 10 * item

    found = []
    for item, answer in as_they_come(range(8), ask, 3):
        found.append(item)
        assert answer == 10 * item
        if len(found) == 7:
            last.set()
    assert found[-1] == 0 and sorted(found) == list(range(8)) and most <= 3
    assert list(as_they_come([], ask, 3)) == []


def test_an_error_ends_it_and_waits_for_nothing_that_hangs() -> None:
    hangs, asked = threading.Event(), []

    def ask(item: int) -> int:
        asked.append(item)
        if item == 0:
            hangs.wait(60)
        if item == 1:
            raise ValueError("no")
        return item

    begun = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        list(as_they_come(range(100), ask, 2))
    assert time.monotonic() - begun < 30 and hangs.is_set() is False
    hangs.set()


def test_silence_is_told_once() -> None:
    told: list[str] = []
    gate = threading.Event()

    def silent() -> None:
        told.append("silent")
        gate.set()

    def ask(item: int) -> int:
        gate.wait(10)
        time.sleep(0.05)
        return item

    assert len(list(as_they_come(range(3), ask, 1, silent, 0.01))) == 3
    assert told == ["silent"]
