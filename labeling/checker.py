"""What checks an answer before it is sent: a process of its own, which may be slow, hang or die.

It is `python -m align.loop.checks CHECK`, lines in and lines out. It starts when somebody first asks, is
ended where it takes too long, and is started again with the next question.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from align.recipe.labeling import Check
from labeling.companion import Absent, as_object, read_lines

_WAITING = 8  # people at most, including the one whose answer is being checked
_STARTS_WITHIN = 300.0  # seconds: a large base takes its time
_ENDS_WITHIN = 5.0


class Checker:
    """One check of a recipe; one answer at a time, the others wait their turn."""

    def __init__(self, check: Check, command: Sequence[str] = ()) -> None:
        spec = json.dumps(check.model_dump())
        self._check = check
        self._command = list(command) or [sys.executable, "-m", "align.loop.checks", spec]
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(_WAITING)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._version: str | None = None
        self._numbers = itertools.count(1)
        self._closed = False

    def ask(self, prompt: Any, responses: Sequence[str]) -> tuple[dict[str, Any], str | None]:
        """What is said of the first of these responses, as labeling.store.checks has it, and the version.

        The others are the task's own, among which a score is placed. Raises Absent, which says why, where
        there is no answer.
        """
        if not self._places.acquire(blocking=False):
            raise Absent("Too many people have an answer checked at the moment: try again soon.")
        try:
            with self._turn:
                self._start()
                number = next(self._numbers)
                self._write({"id": number, "prompt": prompt, "responses": list(responses)})
                slow = f"it took longer than {self._check.timeout:g} seconds"
                said = self._told(self._check.timeout, slow, lambda found: found.get("id") == number)
        finally:
            self._places.release()
        if "error" in said:
            raise Absent(self._failed(said["error"]))
        if "scores" in said:
            score, *others = said["scores"]
            return {"score": score, "above": sum(score > o for o in others), "of": len(others)}, self._version
        return {"passed": bool(said.get("passed")), "says": str(said.get("says", ""))[:2000]}, self._version

    def close(self) -> None:
        """End the process, and what waits for it."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait(_ENDS_WITHIN)

    def _start(self) -> None:
        """Start the process where there is none, and wait until it is ready."""
        if self._closed:
            raise Absent("The app ends.")
        if self._process is not None and self._process.poll() is None:
            return
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the app; the end of its input is for the check
        )
        assert self._process.stdout is not None
        reader = threading.Thread(target=read_lines, args=(self._process.stdout, self._lines), daemon=True)
        reader.start()
        slow = f"it did not start within {_STARTS_WITHIN:.0f} seconds"
        ready = self._told(_STARTS_WITHIN, slow, lambda found: "ready" in found or "failed" in found)
        if "failed" in ready:
            raise self._absent(ready["failed"])
        self._version = ready["ready"]

    def _write(self, asked: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        watch = threading.Timer(self._check.timeout, self._process.kill)  # writing blocks where nobody reads
        watch.daemon = True
        watch.start()
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
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
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        return Absent(self._failed(why))

    def _failed(self, why: Any) -> str:
        return (
            f"The check {self._check.label} failed: {str(why)[:500]}. Your answer is kept; you can send it."
        )
