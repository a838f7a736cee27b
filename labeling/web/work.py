"""The work of a labeler: take a task, save drafts, answer, reopen."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.agreement import disagreement
from labeling.answers import FLAGS, SKIP_REASONS, drawn_order, ranks_of
from labeling.store import labels, queue
from labeling.store.models import Draft, Item, Label, Suggestion
from labeling.store.suggestions import AFTER, PREFILLED, SEEN, suggestion_for
from labeling.web.config import Config
from labeling.web.pages import page
from labeling.web.security import PEOPLE, Visitor, needs

router = APIRouter(include_in_schema=False)
_person = Depends(needs(*PEOPLE))
ItemId = Annotated[int, Field(ge=1, le=2**31 - 1)]
SubmissionId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
TITLES = {
    "rank": "Rank the responses",
    "compare": "Which response is better?",
    "demonstrate": "Write the best response",
    "correct": "Correct the response",
}


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    content: dict[str, Any]
    submission: SubmissionId
    guideline: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
    skip: bool = False
    adjudicates: bool = False


@router.get("/")
def home(request: Request, who: Visitor = _person) -> Response:
    config: Config = request.app.state.config
    with config.store.read() as session:
        done = done_count(session, who)
        return page(
            request, "home.html", who, done=done, waiting=queue.waiting(session, who.person, config.rules)
        )


@router.get("/work")
def work(request: Request, who: Visitor = _person) -> Response:
    config: Config = request.app.state.config
    item = queue.take(config.store, who.person, config.rules)
    if item is None:
        return RedirectResponse("/", 303)
    return task_page(request, who, item, adjudicates=False)


def task_page(request: Request, who: Visitor, item: Item, *, adjudicates: bool, **more: Any) -> Response:
    """A task as this person sees it: the responses in their order, named by letters."""
    config: Config = request.app.state.config
    text = config.guideline()
    order = drawn_order(config.secret, item.id, who.person.id, len(item.responses))
    with config.store.write() as session:
        guideline = labels.keep_guideline(session, text)
        draft = session.get(Draft, (item.id, who.person.id)) if not adjudicates else None
        suggested = suggestion_for(session, draft, item, config.settings, config.secret) if draft else None
        prefilled = suggested if draft and draft.suggestion_shown == PREFILLED else None
        last = labels.last_own(session, who.person)
        counts = {
            "done": done_count(session, who),
            "waiting": queue.waiting(session, who.person, config.rules),
        }
    task = {
        "item": item.id,
        "person": who.person.id,
        "kind": item.kind,
        "count": len(item.responses),
        "guideline": guideline,
        "draft": draft.content if draft else {},
        "saved": draft.saved.timestamp() * 1000 if draft and draft.content else 0,
        "quality": config.settings.quality if item.kind == "rank" and not adjudicates else "off",
        "adjudicates": adjudicates,
        "next": "/review" if adjudicates else "/work",
        "beat": config.settings.lease * 60_000 / 3,
    }
    if prefilled is not None:
        task["start"] = {"ranks": [prefilled.ranks[i] for i in order]}
    return page(
        request,
        f"{item.kind}.html",
        who,
        item=item,
        shown=[item.responses[i].text for i in order],
        task=task,
        task_json=json.dumps(task),
        title=TITLES[item.kind],
        guideline_text=text,
        prefilled=prefilled,
        flags=FLAGS,
        reasons=SKIP_REASONS,
        last=last.id if last else None,
        counts=counts,
        others=more.get("others"),
    )


@router.post("/work/{item}/draft")
def draft(request: Request, item: ItemId, content: dict[str, Any], who: Visitor = _person) -> dict[str, bool]:
    config: Config = request.app.state.config
    try:
        size = len(json.dumps(content, allow_nan=False))
    except ValueError as error:
        raise HTTPException(422, "The draft holds a number without bounds.") from error
    if size > labels.MAX_DRAFT:
        raise HTTPException(413, "The draft is too large.")
    with config.store.write() as session:
        labels.save_draft(session, who.person, item, content)
        return {"held": queue.heartbeat(session, who.person, item, config.rules)}


@router.post("/work/{item}/heartbeat")
def heartbeat(request: Request, item: ItemId, who: Visitor = _person) -> dict[str, bool]:
    config: Config = request.app.state.config
    with config.store.write() as session:
        return {"held": queue.heartbeat(session, who.person, item, config.rules)}


@router.post("/work/{item}/answer")
def answer(request: Request, item: ItemId, given: Answer, who: Visitor = _person) -> dict[str, Any]:
    """Add a label; the same submission twice is one label. `next`: the page to see before the next task."""
    config: Config = request.app.state.config
    if given.adjudicates and not who.reviews:
        raise HTTPException(403, "Only a reviewer decides.")
    with config.store.write() as session:
        found = session.get(Item, item)
        if found is None:
            raise labels.NotYours("This task was not given to you.")
        label = labels.submit(
            session,
            who.person,
            found,
            content=given.content,
            secret=config.secret,
            submission=given.submission,
            guideline=given.guideline,
            seconds=given.seconds,
            skip=given.skip,
            adjudicates=given.adjudicates,
            quality=config.settings.quality,
        )
    after = {"next": f"/answered/{label.id}"} if label.suggestion_shown == AFTER else {}
    return {"label": label.id, **after}


@router.get("/answered/{label}")
def answered(request: Request, label: ItemId, who: Visitor = _person) -> Response:
    """An own answer beside the suggestion that was kept back until it was there."""
    config: Config = request.app.state.config
    with config.store.read() as session:
        found = session.get(Label, label)
        if (
            found is None
            or found.person_id != who.person.id
            or found.suggestion_id is None
            or found.suggestion_shown not in (AFTER, SEEN)
        ):
            raise labels.NotYours("There is no such answer of yours with a suggestion to show.")
        item = session.get_one(Item, found.item_id)
        suggested = session.get_one(Suggestion, found.suggestion_id)
    ranks = ranks_of(found.kind, found.content)
    apart, pairs = disagreement(ranks, suggested.ranks) if ranks else (0.0, 0)
    rows: list[dict[str, Any]] = [
        {
            "letter": place,
            "text": item.responses[index].text,
            "yours": ranks[index] if ranks else None,
            "theirs": suggested.ranks[index],
        }
        for place, index in enumerate(found.shown_order)
    ]
    rows.sort(key=lambda row: (row["yours"] is None, row["yours"] or row["theirs"], row["theirs"]))
    return page(
        request,
        "answered.html",
        who,
        item=item,
        label=found,
        rows=rows,
        pairs=pairs,
        alike=pairs - apart,
        complete=ranks is not None and None not in ranks,
    )


@router.post("/reopen/{label}")
def reopen(request: Request, label: ItemId, who: Visitor = _person) -> dict[str, int]:
    """Take an own answer back and get the task again with it as a draft."""
    config: Config = request.app.state.config
    with config.store.write() as session:
        item = labels.reopen(session, who.person, label)
        queue.heartbeat(session, who.person, item.id, config.rules)
        return {"item": item.id}


@router.get("/history")
def history(request: Request, who: Visitor = _person) -> Response:
    config: Config = request.app.state.config
    with config.store.read() as session:
        return page(request, "history.html", who, rows=labels.history(session, who.person), titles=TITLES)


@router.get("/guideline")
def guideline(request: Request, who: Visitor = _person) -> Response:
    config: Config = request.app.state.config
    try:
        return page(request, "guideline.html", who, text=config.guideline())
    except UserError as error:
        raise HTTPException(500, str(error)) from error


def done_count(session: Session, who: Visitor) -> int:
    query = select(func.count()).select_from(Label).where(labels.standing(), Label.person_id == who.person.id)
    return session.scalar(query.where(Label.kind != "skip")) or 0
