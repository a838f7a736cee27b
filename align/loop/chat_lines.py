"""`align chat --json`: programs talk to a policy, a line in and lines out, and can stop an answer."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any, TextIO

from align.errors import UserError
from align.loop.policy import Partner

_SAYS = "a line must be an object with messages and turn, or with stop"


class Lines:
    """What comes in, read beside the sampling: {"stop": id} is heard in the middle of an answer."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._asked: queue.Queue[Any] = queue.Queue()
        self._stopped: set[Any] = set()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def questions(self) -> Iterable[Any]:
        """What is asked, or the error of a line that is no JSON; until the end of the lines."""
        while (found := self._asked.get()) is not None:
            yield found

    def is_stopped(self, asked: Any) -> bool:
        """Whether the answer with this id is not wanted any more."""
        return asked in self._stopped

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                found = error
            stop = found.get("stop") if isinstance(found, dict) else None
            if isinstance(stop, int | str):
                self._stopped.add(stop)
            elif found is not None:
                self._asked.put(found)
        self._asked.put(None)


def serve_lines(partners: Sequence[Partner], lines: Iterable[str], out: TextIO) -> None:
    """For programs: a line {"messages": […], "turn": n} in, a line {"text": …} or {"error": …} out.

    With an "id" (a number or text), every line out has it, and {"stop": id} ends the answer: its text is what
    was said so far, with "stopped". With "stream", lines {"piece": …} come before. "policy" chooses among
    several, from 0.
    """

    def say(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    first = partners[0]
    origins = [partner.policy.origin for partner in partners]
    say({"ready": origins[0], "template": first.recipe.data.template, "policies": origins})
    came = Lines(lines)
    for asked in came.questions():
        named = {"id": asked["id"]} if isinstance(asked, dict) and "id" in asked else {}
        try:
            if isinstance(asked, Exception):
                raise asked
            say(named | _answered(partners, asked, came, partial(_piece, say, named)))
        except UserError as error:
            say(named | {"error": str(error)})
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            say(named | {"error": f"{_SAYS}: {error!r}"})


def _piece(say: Callable[[dict[str, Any]], None], named: dict[str, Any], piece: str) -> None:
    say(named | {"piece": piece})


def _answered(
    partners: Sequence[Partner], asked: Any, came: Lines, heard: Callable[[str], None]
) -> dict[str, Any]:
    messages, turn, id = asked["messages"], int(asked.get("turn", 0)), asked.get("id")
    if not isinstance(messages, list) or not messages:
        raise TypeError("messages must be a list, and not empty")
    if not isinstance(id, int | str | None):
        raise TypeError("id must be a number or text")
    partner = partners[int(asked.get("policy", 0))]
    streams = heard if asked.get("stream") else None
    text = partner.answer(messages, turn, streams, lambda: not came.is_stopped(id))
    return {"text": text, "stopped": True} if came.is_stopped(id) else {"text": text}


def talk_in_lines(partners: Sequence[Partner]) -> None:
    """On this process's own streams."""
    out = sys.stdout
    # Of its own, not sys.stdin: an interpreter that ends cannot close what a thread still reads from.
    lines = open(os.dup(sys.stdin.fileno()), encoding="utf-8", errors="replace")  # noqa: SIM115
    with redirect_stdout(sys.stderr):  # what libraries print is no answer
        serve_lines(partners, lines, out)
