"""What checks an answer before it is sent: a process of its own, which may be slow, hang or die.

It is `python -m align.loop.checks`, lines in and lines out; the first one in is the check. It starts when
somebody first asks, is ended where it takes too long, and is started again with the next question.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from align.recipe.labeling import Check
from labeling.answers import storable
from labeling.companion import Absent, as_object, read_lines

_STARTS_WITHIN = 300.0  # seconds: a large base takes its time
_ENDS_WITHIN = 5.0


class Checker:
    """One check of a recipe; one answer at a time, the others wait their turn."""

    def __init__(self, check: Check, command: Sequence[str] = ()) -> None:
        self._check = check
        self._command = list(command) or [sys.executable, "-m", "align.loop.checks"]
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._version: str | None = None
        self._numbers = itertools.count(1)
        self._closed = False
        self._starting = threading.RLock()  # a second Ctrl-C comes while the first one closes

    def ask(self, prompt: Any, responses: Sequence[str]) -> tuple[dict[str, Any], str | None]:
        """What is said of the first of these responses, as labeling.store.checks has it, and the version.

        The others are the task's own, among which a score is placed. Raises Absent, which says why, where
        there is no answer.
        """
        with self._turn:
            self._start()
            number = next(self._numbers)
            self._write({"id": number, "prompt": prompt, "responses": list(responses)})
            slow = f"it took longer than {self._check.timeout:g} seconds"
            said = self._told(self._check.timeout, slow, lambda found: found.get("id") == number)
        if "error" in said:
            raise Absent(self._failed(said["error"]))
        if "scores" in said:
            score, *others = said["scores"]
            return {"score": score, "above": sum(score > o for o in others), "of": len(others)}, self._version
        return {
            "passed": bool(said.get("passed")),
            "says": _storable(str(said.get("says", ""))),
        }, self._version

    def close(self) -> None:
        """End the process and what it started, and whoever waits for it."""
        with self._starting:
            self._closed = True
            self._end()

    def _start(self) -> None:
        """Start the process where there is none, and wait until it is ready."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._starting:
            if self._closed:
                raise Absent("The app ends.")
            self._end()
            self._lines = queue.Queue()
            started = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the app; what the check starts ends with it
            )
            self._process = started
        reader = threading.Thread(target=read_lines, args=(started.stdout, self._lines), daemon=True)
        reader.start()
        self._write(self._check.model_dump())
        slow = f"it did not start within {_STARTS_WITHIN:.0f} seconds"
        ready = self._told(_STARTS_WITHIN, slow, lambda found: "ready" in found or "failed" in found)
        if "failed" in ready:
            raise self._absent(ready["failed"])
        self._version = ready["ready"]

    def _write(self, asked: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise Absent("The app ends.")
        watch = threading.Timer(self._check.timeout, process.kill)  # writing blocks where nobody reads
        watch.daemon = True
        watch.start()
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
        except OSError:
            raise self._absent("it has stopped; it starts again with the next answer") from None
        finally:
            watch.cancel()

    def _told(self, seconds: float, slow: str, wanted: Any) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise self._absent(slow) from None
            if line is None:
                raise self._absent("it has stopped; the app's terminal says why")
            if wanted(found := as_object(line)):
                return found
            if time.monotonic() >= until:
                raise self._absent(slow)

    def _absent(self, why: str) -> Absent:
        """End the process, to start again with the next question; the error to raise."""
        self._end()
        return Absent(self._failed(why))

    def _end(self) -> None:
        """Kill the process, where there is one, and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:  # not waited for yet, so the number is still its own
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_WITHIN)

    def _failed(self, why: Any) -> str:
        label, said = self._check.label, _storable(str(why)[:500])
        return f"The check {label} failed: {said}. Your answer is kept; you can send it."


def _storable(text: str) -> str:
    """A text with � for what no database takes: a NUL, half a character."""
    return "".join(c if storable(c) else "\ufffd" for c in text)
