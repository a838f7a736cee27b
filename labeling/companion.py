"""The policy that people talk to, or two of them: a process of its own, because this one has no torch.

It is `align chat RUN --json`, lines in and lines out. It ends when this process does, however that happens,
because its input ends; it is started again when somebody asks and it has died.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from align.errors import AlignError, UserError
from labeling.language import N_, gettext

_WAITING = 8  # people at most, including the one whose question is being answered
_STARTS_WITHIN = 300.0  # seconds: a large base takes its time
_ANSWERS_WITHIN = 180.0  # seconds until the next piece of an answer
_STOPS_WITHIN = 20.0  # seconds: a token of a large base takes its time, too
_ENDS_WITHIN = 5.0  # seconds
_BEAT = 0.5  # seconds between signs of life, at which is seen that somebody has left

ENDED = N_("The policy has stopped. It starts again with the next message: try again.")
Event = dict[str, Any]


class Absent(AlignError):
    """The policy cannot answer now."""


class Companion:
    """One process, one question at a time; the others wait their turn."""

    def __init__(self, command: Sequence[str], policies: int = 1) -> None:
        self.policies = policies
        self.origins: list[str] = []  # names of all policies that have answered, the present ones last
        self._command = list(command)
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(_WAITING)
        self._ending = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._ready: Event | None = None
        self._numbers = itertools.count(1)
        self._start()

    def talk(
        self,
        messages: list[dict[str, str]],
        turn: int,
        stop: threading.Event,
        policies: Sequence[int] = (0,),
    ) -> Iterator[Event]:
        """The answers of these policies, one after the other, as they come.

        First {"waiting": true}, and again now and then; {"piece": text, "side": n} where n counts `policies`;
        at last {"texts": […], "origins": […], "stopped": whether `stop` was set}, where an answer is what was
        said so far. Who closes this early stops the policy, too. Raises Absent where there is none,
        UserError where it cannot read the conversation.
        """
        if not self._places.acquire(blocking=False):
            raise Absent(gettext("Too many people are waiting for the policy: try again in a moment."))
        try:
            yield {"waiting": True}
            texts = [""] * len(policies)
            while not self._turn.acquire(timeout=_BEAT):
                if self._over(stop):
                    yield {"texts": texts, "origins": [""] * len(policies), "stopped": True}
                    return
                yield {"waiting": True}
            try:
                origins = yield from self._there(stop)
                for side, policy in enumerate(policies):
                    if not self._over(stop):
                        asked = {"messages": messages, "turn": turn, "policy": policy}
                        texts[side] = yield from self._said(asked, side, stop)
            finally:
                self._turn.release()
        finally:
            self._places.release()
        yield {"texts": texts, "origins": [origins[i] for i in policies], "stopped": self._over(stop)}

    def answer(self, messages: list[dict[str, str]], turn: int) -> tuple[str, str]:
        """The policy's whole answer, and the policy's name; raises as `talk` does."""
        *_, last = self.talk(messages, turn, threading.Event())
        return last["texts"][0], last["origins"][0]

    def let_go(self) -> None:
        """Stop all answers: the app ends."""
        self._ending.set()

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
        reader = threading.Thread(target=read_lines, args=(self._process.stdout, self._lines), daemon=True)
        reader.start()

    def _over(self, stop: threading.Event) -> bool:
        return stop.is_set() or self._ending.is_set()

    def _there(self, stop: threading.Event) -> Generator[Event, None, list[str]]:
        """Until the policies are ready, started again where they have died; returns their names, or ""."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        if self._ready is None:
            failed = N_("The policy could not be started: the app's terminal says why.")
            for found in self._told(_STARTS_WITHIN, failed):
                if "ready" in found:
                    self._ready = found
                    break
                if self._over(stop):
                    return [""] * self.policies
                yield {"waiting": True}
        assert self._ready is not None
        names = [str(name) for name in self._ready.get("policies", [self._ready["ready"]])]
        self.origins = [name for name in self.origins if name not in names] + names
        return names

    def _said(self, asked: Event, side: int, stop: threading.Event) -> Generator[Event, None, str]:
        """One policy's answer; returns its text."""
        number = next(self._numbers)
        self._write({**asked, "id": number, "stream": True})
        told_to_stop = ended = False
        try:
            for found in self._told(_ANSWERS_WITHIN):
                if self._over(stop) and not told_to_stop:
                    self._write({"stop": number})
                    told_to_stop = True
                if found.get("id") != number:
                    yield {"waiting": True}
                elif "piece" in found:
                    yield {"piece": str(found["piece"]), "side": side}
                else:
                    ended = True
                    if "error" in found:
                        raise UserError(str(found["error"]))
                    return str(found["text"])
        except Absent:
            ended = True
            raise
        finally:
            if not ended:  # who asked has left: the policy is free for the next one when it has stopped
                self._hush(number)
        raise AssertionError("unreachable")

    def _hush(self, number: int) -> None:
        """Stop an answer, and pass over what comes of it until it has; a policy that goes on is ended."""
        with suppress(Absent):
            self._write({"stop": number})
            until = time.monotonic() + _STOPS_WITHIN
            for found in self._told(_STOPS_WITHIN):
                if found.get("id") == number and "piece" not in found:
                    return
                if time.monotonic() > until:
                    self._absent(gettext(ENDED))
                    return

    def _write(self, asked: Event) -> None:
        assert self._process is not None and self._process.stdin is not None
        watch = threading.Timer(_ANSWERS_WITHIN, self._process.kill)  # writing blocks where nobody reads
        watch.daemon = True
        watch.start()
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._absent(gettext(ENDED)) from error
        finally:
            watch.cancel()

    def _told(self, seconds: float, ended: str = ENDED) -> Iterator[Event]:
        """What the process says, what is no object of its as an empty one; and that after a beat of silence.

        Raises Absent where it ends, or says nothing of its own for so many seconds.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, min(_BEAT, until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= until:
                    raise self._absent(
                        gettext(
                            "The policy did not answer within %(seconds)s seconds.", seconds=f"{seconds:.0f}"
                        )
                    ) from None
                yield {}
                continue
            if line is None:
                raise self._absent(gettext(ended))
            found = as_object(line)
            if found:
                until = time.monotonic() + seconds
            yield found

    def _absent(self, message: str) -> Absent:
        """End the process, to start again with the next question; the error to raise."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        return Absent(message)


def as_object(line: str) -> dict[str, Any]:
    """The object that a line holds; an empty one where it holds none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_lines(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    """Put what a process says into a queue, line by line, and None at its end."""
    for line in stream:
        lines.put(line)
    lines.put(None)
