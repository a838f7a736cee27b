"""The work of a labeler: take a task, save drafts, answer, reopen."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Path
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, RedirectResponse, Response

from align.errors import UserError
from align.stats.rankings import disagreement
from labeling.answers import FLAGS, KINDS, SKIP_REASONS, Answer, drawn_order, ranks_of
from labeling.language import gettext
from labeling.retold import retold_check
from labeling.store import calibration, guidelines, labels, queue, review
from labeling.store.checks import said_before
from labeling.store.models import Draft, Item, Label, Suggestion, standing
from labeling.store.suggestions import AFTER, PREFILLED, SEEN, suggestion_for
from labeling.web.keys import KEYS, keys_of
from labeling.web.markdown import safe_html
from labeling.web.numbers import MOST, item_of, number_of
from labeling.web.pages import page
from labeling.web.security import SignedIn, SignedInRoute, Visitor

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
ItemId = Annotated[int, Field(ge=1, le=2**31 - 1)]
SubmissionId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Revision = Annotated[int | None, Field(ge=0, le=2**31 - 1)]
MOST_WRITTEN = 100_000  # characters, as in the field on the page
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


def _called(number: Annotated[int, Path(ge=0, le=MOST)], who: SignedIn) -> int:
    """The id of the task that a page calls by a number."""
    item = item_of(who.config.secret, number)
    if not 1 <= item < 2**31:
        raise labels.NotYours(gettext("This task was not given to you."))
    return item


Called = Annotated[int, Depends(_called)]


class Submission(Answer):
    """An answer as the page sends it."""

    content: dict[str, Any]
    submission: SubmissionId
    guideline: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    seconds: Seconds
    instead_of: Annotated[list[SubmissionId], Field(max_length=100)] = []


@router.get("/")
def home(who: SignedIn) -> Response:
    """The first page: how much is done, and how much waits."""
    with who.config.store.read() as session:
        standard = who.config.rules.calibration
        stage = calibration.stage(session, who.person, standard)
        return page(who, "home.html", **_counts(session, who), stage=stage, standard=standard)


@router.get("/work")
def work(who: SignedIn) -> Response:
    """The next task; the first page where there is none."""
    item = queue.take(who.config.store, who.person, who.config.rules)
    return RedirectResponse("/", 303) if item is None else task_page(who, item)


def task_page(who: Visitor, item: Item, others: list[dict[str, Any]] | None = None) -> Response:
    """A task as this person sees it: the responses in their order, named by letters.

    `others`: what others answered, for a reviewer who decides.
    """
    config, adjudicates = who.config, others is not None
    order = drawn_order(config.secret, item.id, who.person.id, len(item.responses))
    with config.store.write() as session:
        text = config.guideline(session)
        guideline = labels.keep_guideline(session, text)
        seen = guidelines.last_seen(session, who.person)
        draft = session.get(Draft, (item.id, who.person.id)) if not adjudicates else None
        slot = queue.own_slot(session, who.person.id, item.id) if not adjudicates else None
        suggested = suggestion_for(session, draft, item, config.settings, config.secret) if draft else None
        prefilled = suggested if draft and draft.suggestion_shown == PREFILLED else None
        last = labels.last_own(session, who.person)
        counts = _counts(session, who)
        reopened = slot is not None and slot.state == "reopened"
        checked = said_before(session, who.person.id, item, draft) if config.checks else []
        returned = review.remark_on(session, who.person, item.id) if reopened else None
    task = {
        "number": number_of(config.secret, item.id),
        "person": who.person.id,
        "kind": item.kind,
        "count": len(item.responses),
        "guideline": guideline,
        "draft": draft.content if draft else {},
        "revision": draft.revision if draft else 0,
        "reopened": reopened,
        "quality": config.settings.quality if item.kind == "rank" and not adjudicates else "off",
        "adjudicates": adjudicates,
        "unchanged": None,  # what stands there before the person comes, where anything does
        "checks": [] if adjudicates else [check.label for check in config.checks],
        "checked": [found | {"said": retold_check(found["said"])} for found in checked],
        "next": "/review" if adjudicates else "/work",
        "beat": config.settings.lease * 60_000 / 3,
    }
    if prefilled is not None:
        task["start"] = task["unchanged"] = {"ranks": [prefilled.ranks[i] for i in order]}
    if item.kind == "correct":
        task["unchanged"] = {"text": item.responses[0].text}
    left_out = {"affirm"} if not task["unchanged"] else set()
    left_out |= {"check"} if not task["checks"] else set()
    keys = [key for key in keys_of(item.kind) if key.name not in left_out]
    task["keys"] = {key.name: key.key for key in keys}
    return page(
        who,
        f"{item.kind}.html",
        item=item,
        shown=[item.responses[i].text for i in order],
        task=task,
        task_json=json.dumps(task),
        keys=keys,
        title=gettext(KINDS[item.kind].title),
        guideline_text=text,
        prefilled=prefilled,
        flags=FLAGS,
        reasons=SKIP_REASONS,
        last=last.id if last else None,
        counts=counts,
        others=others,
        returned=returned,
        seen_guideline=seen if seen != guideline else None,
        gold=[item.gold[i] for i in order] if adjudicates and item.gold else None,
    )


@router.post("/work/preview")
def preview(text: Annotated[str, Body(embed=True, max_length=MOST_WRITTEN)], who: SignedIn) -> dict[str, str]:
    """What somebody is writing, as it will be read."""
    return {"html": safe_html.__wrapped__(text)}  # not kept: each is read once


@router.post("/work/{number}/draft")
def draft(item: Called, content: dict[str, Any], who: SignedIn, revision: Revision = None) -> Response:
    """Keep what the person has done so far, made from `revision`; whether they still hold the task.

    409 where another revision is kept, which is sent along: nothing is overwritten unseen.
    """
    try:
        size = len(json.dumps(content, allow_nan=False))
    except ValueError as error:
        raise HTTPException(422, gettext("The draft holds a number without bounds.")) from error
    if size > labels.MAX_DRAFT:
        raise HTTPException(413, gettext("The draft is too large."))
    try:
        with who.config.store.write() as session:
            kept = labels.save_draft(session, who.person, item, content, revision)
            held = queue.heartbeat(session, who.person, item, who.config.rules)
    except labels.NewerDraft as error:
        there = {"content": error.content, "revision": error.revision}
        return JSONResponse({"detail": str(error), **there}, 409)
    return JSONResponse({"held": held, "revision": kept})


@router.post("/work/{number}/heartbeat")
def heartbeat(item: Called, who: SignedIn) -> dict[str, bool]:
    """The page is still open; whether the person still holds the task."""
    with who.config.store.write() as session:
        return {"held": queue.heartbeat(session, who.person, item, who.config.rules)}


@router.post("/work/{number}/answer")
def answer(item: Called, given: Submission, who: SignedIn) -> Response:
    """Add a label; the same submission twice is one label. `next`: the page to see before the next task.

    409 where another answer of this person stands; `standing`: its submission, to name under `instead_of`.
    """
    config = who.config
    if given.adjudicates and not who.reviews:
        raise HTTPException(403, gettext("Only a reviewer decides."))
    try:
        with config.store.write() as session:
            found = session.get(Item, item)
            if found is None:
                raise labels.NotYours(gettext("This task was not given to you."))
            _check_final(session, who, found, given)
            label = labels.submit(session, who.person, found, given, config.secret, config.settings.quality)
            after = _after(session, who, found, label)
    except labels.Superseded as error:
        return JSONResponse({"detail": str(error), "standing": error.standing}, 409)
    return JSONResponse({"label": label.id, **after})


def _check_final(session: Session, who: Visitor, item: Item, given: Submission) -> None:
    """An answer after which the known order was shown stays as it is; the same one again is answered."""
    if given.adjudicates or not calibration.was_shown(
        session, who.person, item, who.config.rules.calibration
    ):
        return
    if session.scalar(select(Label.id).where(Label.submission == given.submission)) is None:
        raise UserError(gettext("The known order of this task was shown to you: your answer stays as it is."))


def _after(session: Session, who: Visitor, item: Item, label: Label) -> dict[str, str]:
    """The page to see before the next task."""
    standard = who.config.rules.calibration
    to_learn = item.gold is not None and not label.adjudicates
    if to_learn and calibration.is_feedback(session, who.person, label, standard):
        calibration.conclude(session, who.person, standard)
        return {"next": f"/calibration/{label.id}"}
    return {"next": f"/answered/{label.id}"} if label.suggestion_shown == AFTER else {}


@router.get("/answered/{label}")
def answered(label: ItemId, who: SignedIn) -> Response:
    """An own answer beside the suggestion that was kept back until it was there."""
    with who.config.store.read() as session:
        found = session.get(Label, label)
        mine = found is not None and found.person_id == who.person.id
        if found is None or not mine or found.suggestion_shown not in (AFTER, SEEN):
            raise labels.NotYours(gettext("You have no such answer with a suggestion to show."))
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
        who,
        "answered.html",
        item=item,
        label=found,
        rows=rows,
        pairs=pairs,
        alike=pairs - apart,
        complete=ranks is not None and None not in ranks,
    )


@router.post("/reopen/{label}")
def reopen(label: ItemId, who: SignedIn) -> dict[str, int]:
    """Get the task of an own answer again, with it as a draft; it stands until there is another one."""
    with who.config.store.write() as session:
        item = labels.reopen(session, who.person, label)
        if calibration.was_shown(session, who.person, item, who.config.rules.calibration):
            raise UserError(
                gettext("The known order of this task was shown to you: your answer stays as it is.")
            )
        queue.heartbeat(session, who.person, item.id, who.config.rules)
        return {"number": number_of(who.config.secret, item.id)}


@router.post("/work/{number}/keep")
def keep(item: Called, who: SignedIn) -> dict[str, bool]:
    """End a reopening: the answer that stands stays."""
    with who.config.store.write() as session:
        labels.keep_answer(session, who.person, item)
    return {"kept": True}


@router.get("/history")
def history(who: SignedIn) -> Response:
    """The person's own answers, to reopen them."""
    with who.config.store.read() as session:
        return page(who, "history.html", rows=labels.history(session, who.person))


@router.get("/keys")
def change_keys(who: SignedIn) -> Response:
    """The keys of the work on tasks, to change them; the browser keeps them."""
    return page(
        who,
        "keys.html",
        keys=KEYS,
        keys_json=json.dumps([asdict(key) | {"does": gettext(key.does)} for key in KEYS]),
    )


def _counts(session: Session, who: Visitor) -> dict[str, int]:
    """How many tasks the person has done, and how many wait for them."""
    query = select(func.count()).select_from(Label).where(standing(), Label.person_id == who.person.id)
    done = session.scalar(query.where(Label.kind != "skip")) or 0
    return {"done": done, "waiting": queue.waiting(session, who.person, who.config.rules)}
