"""A page to talk to a policy, or to two that nobody sees apart; what people write and choose are labels."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from labeling.answers import TEXT_LIMIT
from labeling.companion import Absent, Companion, Event
from labeling.language import gettext
from labeling.store.checks import About
from labeling.store.corrections import keep_choice, keep_correction
from labeling.web.checks import Asked as CheckAsked
from labeling.web.checks import Checking, Subject
from labeling.web.markdown import safe_html
from labeling.web.pages import page
from labeling.web.security import SignedIn, SignedInRoute, Visitor
from labeling.web.talking import Stops, talk
from labeling.web.work import Seconds, SubmissionId

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
MessageText = Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]
Seal = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["user", "assistant"]
    content: MessageText


class Talk(BaseModel):
    """A conversation that ends with what is asked."""

    model_config = ConfigDict(extra="forbid")
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]

    def as_given(self) -> list[dict[str, str]]:
        """The messages as plain data."""
        return [message.model_dump() for message in self.messages]


class Asked(Talk):
    """Each `turn` has draws of its own; `ask` is what the page calls the answer, to stop it."""

    turn: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    ask: SubmissionId


class Stopped(BaseModel):
    """The answer that is not wanted any more."""

    model_config = ConfigDict(extra="forbid")
    ask: SubmissionId


class Shown(BaseModel):
    """Texts to see."""

    model_config = ConfigDict(extra="forbid")
    texts: Annotated[list[Annotated[str, Field(max_length=TEXT_LIMIT)]], Field(max_length=400)]


class Written(Talk):
    """What an answer should have been.

    `seal` says that the policy gave the answer; `origin` is "" where nobody may see whose it is.
    """

    answer: Annotated[str, Field(max_length=TEXT_LIMIT)]
    origin: Annotated[str, Field(max_length=200)]
    seal: Seal
    text: MessageText


class ToCheck(Written):
    """By which of the recipe's checks it is checked before it is kept."""

    check: Annotated[str, Field(max_length=200)]


class Corrected(Written):
    """As it is kept."""

    submission: SubmissionId
    seconds: Seconds


class Chosen(Talk):
    """Two answers as they stood side by side, and which is better; `seal` says that they stood so."""

    texts: Annotated[list[MessageText], Field(min_length=2, max_length=2)]
    seal: Seal
    choice: Literal["first", "second", "tie"]
    submission: SubmissionId
    seconds: Seconds


@router.get("/chat")
def chat(who: SignedIn) -> Response:
    """The page of a conversation."""
    companion = who.config.companion
    checks = [check.label for check in who.config.checks]
    return page(who, "chat.html", pair=companion is not None and companion.policies > 1, checks=checks)


@router.post("/chat/answer")
def answer(given: Asked, who: SignedIn) -> Response:
    """The policy's answer as it comes, sealed when it is there; of two policies both, sides drawn."""
    companion, messages = _companion(who), given.as_given()
    sides = list(range(companion.policies))
    secrets.SystemRandom().shuffle(sides)

    def last(event: Event) -> dict[str, Any]:
        texts, origins, stopped = event["texts"], event["origins"], {"stopped": event["stopped"]}
        seals = [_seal(who, messages, *said) for said in zip(texts, origins, strict=True)]
        if len(sides) == 1:
            return {"text": texts[0], "origin": origins[0], "seal": seals[0], **stopped}
        return {"texts": texts, "seals": seals, "seal": _seal(who, messages, texts, origins), **stopped}

    stops: Stops = who.request.app.state.stops
    try:
        return talk(companion, stops, who.person.id, given.ask, (messages, given.turn), sides, last)
    except Absent as error:
        raise HTTPException(503, str(error)) from error


@router.post("/chat/stop")
def stop(given: Stopped, who: SignedIn) -> dict[str, bool]:
    """End an answer of one's own; what was said so far comes as its end."""
    return {"stopped": who.request.app.state.stops.stop(who.person.id, given.ask)}


@router.post("/chat/shown")
def shown(given: Shown, who: SignedIn) -> dict[str, list[str]]:
    """Texts as Markdown and LaTeX show them everywhere else."""
    return {"html": [safe_html(text) for text in given.texts]}


@router.post("/chat/correct")
def correct(given: Corrected, who: SignedIn) -> dict[str, int]:
    """Keep what the answer should have been; the same submission twice is one label."""
    config, companion, messages = who.config, _companion(who), given.as_given()
    origin = _origin(who, given)
    with config.store.write() as session:
        label = keep_correction(
            session,
            who.person,
            prompt=companion.prompt(messages),
            answer=given.answer,
            text=given.text,
            origin=origin,
            guideline=config.guideline(),
            seconds=given.seconds,
            secret=config.secret,
            submission=given.submission,
            seal=given.seal,
        )
        return {"label": label.id}


@router.post("/chat/check")
async def check(given: ToCheck, who: SignedIn) -> dict[str, Any]:
    """Have what an answer should have been checked, before it is kept."""
    _origin(who, given)
    prompt = _companion(who).prompt(given.as_given())
    subject = Subject(About(talk=given.seal), prompt, [given.answer] if given.answer.strip() else [])
    checking: Checking = who.request.app.state.checking
    return await checking.run(who, CheckAsked(check=given.check, text=given.text), lambda _: subject)


@router.post("/chat/choose")
def choose(given: Chosen, who: SignedIn) -> dict[str, int]:
    """Keep which of two answers is better, as a ranking with the conversation as its prompt."""
    config, companion, messages = who.config, _companion(who), given.as_given()
    pairs = itertools.permutations(companion.origins, 2)
    stood = [pair for pair in pairs if _is_sealed(given.seal, _seal(who, messages, given.texts, pair))]
    if not stood:
        raise HTTPException(409, gettext("The policies did not say this to you."))
    # Which side each policy stood on, and so, being two, also which policy stood on each side.
    shown_order = sorted((0, 1), key=lambda side: companion.origins.index(stood[0][side]))
    said = list(zip(given.texts, stood[0], strict=True))
    with config.store.write() as session:
        label = keep_choice(
            session,
            who.person,
            prompt=companion.prompt(messages),
            responses=[said[side] for side in shown_order],
            shown_order=shown_order,
            choice=given.choice,
            guideline=config.guideline(),
            seconds=given.seconds,
            secret=config.secret,
            submission=given.submission,
        )
        return {"label": label.id}


def _companion(who: Visitor) -> Companion:
    if who.config.companion is None:
        raise HTTPException(
            503, gettext("No policy is here to talk to: start the app with `align label … --chat RUN`.")
        )
    return who.config.companion


def _origin(who: Visitor, given: Written) -> str:
    """Which policy gave the answer. Raises 409 where none did."""
    messages = given.as_given()
    origins = [given.origin] if given.origin else _companion(who).origins
    for origin in origins:
        if _is_sealed(given.seal, _seal(who, messages, given.answer, origin)):
            return origin
    raise HTTPException(409, gettext("The policy did not say this to you."))


def _seal(who: Visitor, messages: list[dict[str, str]], answer: Any, origin: Any) -> str:
    """Of an answer and whose it is, or of two of each."""
    said = json.dumps([who.person.id, messages, answer, origin])
    return hmac.new(who.config.secret.encode(), f"chat {said}".encode(), hashlib.sha256).hexdigest()


def _is_sealed(given: str, seal: str) -> bool:
    return hmac.compare_digest(given, seal)
