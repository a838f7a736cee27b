"""A person's own answer, checked before it is sent, by what the recipe names. Nothing waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from labeling.answers import TEXT_LIMIT, storable
from labeling.checker import Checker
from labeling.companion import Absent
from labeling.language import gettext
from labeling.retold import retold_check
from labeling.store.checks import About, check_room, keep_check, to_check
from labeling.store.labels import NotYours
from labeling.store.records import prompt_of
from labeling.web.config import Config
from labeling.web.security import SignedIn, SignedInRoute, Visitor
from labeling.web.work import Called

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
_AT_ONCE = 8  # answers that are being checked or wait for it: their threads are no one else's


class Asked(BaseModel):
    """A text to check, and by which of the recipe's checks."""

    model_config = ConfigDict(extra="forbid")
    check: Annotated[str, Field(max_length=200)]
    text: Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]


@dataclass(frozen=True)
class Subject:
    """What a text is to answer, its prompt, and the responses that are there."""

    about: About
    prompt: Any
    responses: list[str]


Find = Callable[[Session], Subject]


class Checking:
    """The recipe's checks, and who is having an answer checked: one at a time each."""

    def __init__(self, config: Config) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, "check")
        self._checkers = {check.label: Checker(check) for check in config.checks}
        self._busy: set[int] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """End all processes, and what waits for them."""
        for checker in self._checkers.values():
            checker.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, who: Visitor, asked: Asked, find: Find) -> dict[str, Any]:
        """What the check says. Raises 404 for an unknown one, 429 while the person's last one runs.

        503, with what is wrong, where the check itself fails.
        """
        checker = self._checkers.get(asked.check)
        if checker is None:
            raise HTTPException(404, gettext("There is no such check: reload the page."))
        with self._lock:
            if who.person.id in self._busy:
                raise HTTPException(
                    429, gettext("Your last check is still running: wait for it, or send without it.")
                )
            if len(self._busy) >= _AT_ONCE:
                raise HTTPException(503, gettext("Too many people have an answer checked: try again soon."))
            self._busy.add(who.person.id)
        running = self._threads.submit(copy_context().run, self._run, who, asked, find, checker)
        said = await asyncio.shield(asyncio.wrap_future(running))  # to its end, also where the page is left
        if "error" in said:
            raise HTTPException(503, retold_check(said)["error"])
        return retold_check(said)

    def _run(self, who: Visitor, asked: Asked, find: Find, checker: Checker) -> dict[str, Any]:
        try:
            return _checked(who, asked, find, checker)
        finally:
            with self._lock:
                self._busy.discard(who.person.id)


def _checked(who: Visitor, asked: Asked, find: Find, checker: Checker) -> dict[str, Any]:
    store = who.config.store
    if not asked.text.strip() or not storable(asked.text):
        raise HTTPException(
            422,
            gettext("Write the answer first.")
            if not asked.text.strip()
            else gettext("The text holds a character that cannot be stored."),
        )
    with store.read() as session:
        subject = find(session)
        check_room(session, who.person, subject.about)
    version: str | None = None
    try:
        said, version = checker.ask(subject.prompt, [asked.text, *subject.responses])
    except Absent as error:
        said = {"error": str(error)}
    with store.write() as session:
        keep_check(session, who.person, subject.about, asked.check, version, asked.text, said)
    return said


@router.post("/work/{number}/check")
async def check(item: Called, asked: Asked, who: SignedIn) -> dict[str, Any]:
    """Have an own answer to a task checked."""

    def find(session: Session) -> Subject:
        found = to_check(session, who.person, item)
        if found is None:
            raise NotYours(gettext("This task was not given to you."))
        return Subject(About(item), prompt_of(found), [response.text for response in found.responses])

    checking: Checking = who.request.app.state.checking
    return await checking.run(who, asked, find)
