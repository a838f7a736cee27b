"""A page to talk to a policy; what a person writes over a wrong answer is a label like any other."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from labeling.answers import TEXT_LIMIT
from labeling.companion import Absent, Companion
from labeling.store.corrections import keep_correction
from labeling.web.pages import page
from labeling.web.security import SignedIn, SignedInRoute, Visitor
from labeling.web.work import Seconds, SubmissionId

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
MessageText = Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["user", "assistant"]
    content: MessageText


class Asked(BaseModel):
    """A conversation that ends with what is asked; each `turn` has draws of its own."""

    model_config = ConfigDict(extra="forbid")
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    turn: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class Corrected(Asked):
    """`messages` ends with what was asked; `seal` says that the policy gave this answer to it."""

    answer: Annotated[str, Field(max_length=TEXT_LIMIT)]
    origin: Annotated[str, Field(max_length=200)]
    seal: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    text: MessageText
    submission: SubmissionId
    seconds: Seconds


@router.get("/chat")
def chat(who: SignedIn) -> Response:
    """The page of a conversation."""
    return page(who, "chat.html")


@router.post("/chat/answer")
def answer(given: Asked, who: SignedIn) -> dict[str, str]:
    """The policy's answer to a conversation, sealed."""
    messages = [message.model_dump() for message in given.messages]
    try:
        text, origin = _companion(who).answer(messages, given.turn)
    except Absent as error:
        raise HTTPException(503, str(error)) from error
    return {"text": text, "origin": origin, "seal": _seal(who, messages, text, origin)}


@router.post("/chat/correct")
def correct(given: Corrected, who: SignedIn) -> dict[str, int]:
    """Keep what the answer should have been; the same submission twice is one label."""
    config, companion = who.config, _companion(who)
    messages = [message.model_dump() for message in given.messages]
    if not hmac.compare_digest(given.seal, _seal(who, messages, given.answer, given.origin)):
        raise HTTPException(409, "The policy did not say this to you.")
    with config.store.write() as session:
        label = keep_correction(
            session,
            who.person,
            prompt=companion.prompt(messages),
            answer=given.answer,
            text=given.text,
            origin=given.origin,
            guideline=config.guideline(),
            seconds=given.seconds,
            secret=config.secret,
            submission=given.submission,
        )
        return {"label": label.id}


def _companion(who: Visitor) -> Companion:
    if who.config.companion is None:
        raise HTTPException(
            503, "No policy is here to talk to: start the app with `align label … --chat RUN`."
        )
    return who.config.companion


def _seal(who: Visitor, messages: list[dict[str, str]], answer: str, origin: str) -> str:
    said = json.dumps([who.person.id, messages, answer, origin])
    return hmac.new(who.config.secret.encode(), f"chat {said}".encode(), hashlib.sha256).hexdigest()
