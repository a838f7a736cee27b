"""The policy that people talk to: a process of its own, because this one has no torch.

It is `align chat RUN --json`, a line in and a line out. It ends when this process does, however that happens,
because its input ends; it is started again when somebody asks and it has died.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from align.errors import AlignError, UserError

_WAITING = 8  # people at most, including the one whose question is being answered
_STARTS_WITHIN = 300.0  # seconds: a large base takes its time
_ANSWERS_WITHIN = 180.0  # seconds
_ENDS_WITHIN = 5.0  # seconds


class Absent(AlignError):
    """The policy cannot answer now."""


class Companion:
    """One policy, one question at a time; the others wait their turn."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(_WAITING)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._ready: dict[str, Any] | None = None
        self._start()

    def answer(self, messages: list[dict[str, str]], turn: int) -> tuple[str, str]:
        """The policy's answer, and the policy's name.

        Raises Absent where there is none, UserError where the policy cannot read the conversation.
        """
        if not self._places.acquire(blocking=False):
            raise Absent("Too many people are waiting for the policy: try again in a moment.")
        try:
            with self._turn:
                ready = self._there()
                said = self._exchange({"messages": messages, "turn": turn})
        finally:
            self._places.release()
        if "error" in said:
            raise UserError(str(said["error"]))
        return str(said["text"]), str(ready["ready"])

    def prompt(self, messages: list[dict[str, str]]) -> Any:
        """The prompt that a conversation is: a text where there is one message, or each stands alone."""
        alone = len(messages) == 1 or (self._ready or {}).get("template") == "plain"
        return messages[-1]["content"] if alone else messages

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> None:
        self._ready, self._lines = None, queue.Queue()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the app; the end of its input is for the policy
        )
        assert self._process.stdout is not None
        reader = threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True)
        reader.start()

    def _there(self) -> dict[str, Any]:
        """What the policy said when it was ready; started again where it has died."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        if self._ready is None:
            failed = "The policy could not be started: the app's terminal says why."
            self._ready = self._line(("ready",), _STARTS_WITHIN, failed)
        return self._ready

    def _exchange(self, asked: dict[str, Any]) -> dict[str, Any]:
        ended = "The policy has stopped. It starts again with the next message: try again."
        assert self._process is not None and self._process.stdin is not None
        while not self._lines.empty():  # what was said before this was asked is no answer to it
            if self._lines.get() is None:
                raise self._absent(ended)
        watch = threading.Timer(_ANSWERS_WITHIN, self._process.kill)  # writing blocks where nobody reads
        watch.daemon = True
        watch.start()
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._absent(ended) from error
        finally:
            watch.cancel()
        return self._line(("text", "error"), _ANSWERS_WITHIN, ended)

    def _line(self, wanted: Sequence[str], seconds: float, ended: str) -> dict[str, Any]:
        """The next line that says one of these; what libraries print between them is passed over."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise self._absent(f"The policy did not answer within {seconds:.0f} seconds.") from None
            if line is None:
                raise self._absent(ended)
            found = _object(line)
            if any(key in found for key in wanted):
                return found

    def _absent(self, message: str) -> Absent:
        """End the process, to start again with the next question; the error to raise."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        return Absent(message)


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
