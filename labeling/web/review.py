"""A reviewer's pages: tasks with what people answered, one person's labels, verdicts, and decisions."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query
from sqlalchemy import select
from starlette.responses import RedirectResponse, Response

from labeling.answers import (
    FLAGS,
    KINDS,
    ORDERING,
    SKIP_REASONS,
    drawn_order,
    in_shown_order,
    parts_of,
    ranks_of,
    written_in,
)
from labeling.language import gettext, short
from labeling.parts import in_pieces
from labeling.retold import retold_check
from labeling.store import review as store
from labeling.store.models import Item, Label, Person, standing
from labeling.web.numbers import whole
from labeling.web.pages import page
from labeling.web.security import Fields, Form, Reviewer, SignedInRoute, Visitor
from labeling.web.work import ItemId, task_page

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
Number = Annotated[int, Query(alias="page", ge=1, le=10**6)]
Kind = Literal["rank", "demonstrate", "correct", "compare", ""]
State = Literal["undecided", "accepted", "returned", "rejected", "kept", "replaced", ""]
_BACK = re.compile(r"^/(?:people/\d+/labels|review/\d+/answers|labels/\d+)(?:\?[a-z0-9=&]*)?$")


@router.get("/review")
def review(
    who: Reviewer, which: Literal["open", "apart", "decided", ""] = "", kind: Kind = "", number: Number = 1
) -> Response:
    """All tasks that people answered, those they disagree about most first."""
    with who.config.store.read() as session:
        found = store.tasks(session, which or None, kind or None, number)
        return page(who, "review.html", found=found, which=which, kind=kind, kinds=KINDS, ordering=ORDERING)


@router.get("/review/{item}")
def decide(item: ItemId, who: Reviewer) -> Response:
    """The task with what others answered; what the reviewer submits stands in their place."""
    with who.config.store.read() as session:
        found = session.get(Item, item)
        if found is None or found.kind not in ORDERING:
            raise HTTPException(404, gettext("There is no such task to decide."))
        order = drawn_order(who.config.secret, found.id, who.person.id, len(found.responses))
        query = select(Label, Person.name).join(Person, Person.id == Label.person_id)
        query = query.where(Label.item_id == item, standing(), Label.kind != "skip").order_by(Label.id)
        others = [_as_seen(label, name, order) for label, name in session.execute(query)]
    if not others:
        raise HTTPException(404, gettext("Nobody has answered this task yet."))
    return task_page(who, found, others)


@router.get("/review/{item}/answers")
def answers(item: ItemId, who: Reviewer) -> Response:
    """Everything that was answered to a task, each in full."""
    with who.config.store.read() as session:
        found = session.get(Item, item)
        if found is None:
            raise HTTPException(404, gettext("There is no such task."))
        labels = [in_full(label) for label in store.labels_of(session, item)]
    back = f"/review/{item}/answers"
    return page(who, "answers.html", item=found, labels=labels, back=back, ordering=ORDERING)


@router.get("/people/{person}/labels")
def persons_labels(
    person: ItemId,
    who: Reviewer,
    kind: Literal["rank", "demonstrate", "correct", "compare", "skip", ""] = "",
    state: State = "",
    number: Number = 1,
    accepted: Annotated[int | None, Query(ge=0, le=1000)] = None,
) -> Response:
    """One person's answers, newest first, each in full. `accepted`: how many just were, at once."""
    with who.config.store.read() as session:
        found = session.get(Person, person)
        if found is None:
            raise HTTPException(404, gettext("There is no such person."))
        labels = store.persons_labels(session, person, kind or None, state or None, number)
        shown = [in_full(label) for label in labels.rows]
    back = f"/people/{person}/labels?kind={kind}&state={state}&page={labels.number}"
    return page(
        who,
        "persons_labels.html",
        person=found,
        found=labels,
        labels=shown,
        back=back,
        kind=kind,
        state=state,
        kinds=KINDS,
        states=store.STATES,
        accepted=accepted,
    )


@router.post("/people/{person}/labels/accept")
def accept(person: ItemId, given: Fields, who: Reviewer) -> Response:
    """Accept the undecided answers of one page at once."""
    ids = [number for value in given.getlist("label") if (number := whole(str(value))) is not None]
    with who.config.store.write() as session:
        done = store.accept(session, who.person, ids[: store.LABELS_A_PAGE])
    back = str(given.get("back", ""))
    back = back if _BACK.match(back) else f"/people/{person}/labels?kind="
    return RedirectResponse(f"{back}&accepted={done}", 303)


@router.get("/labels/{label}")
def one_label(label: ItemId, who: Reviewer) -> Response:
    """One answer in full, with everything that reviewers said of it."""
    return _label_page(who, label)


@router.post("/labels/{label}/verdict")
def verdict(label: ItemId, given: Form, who: Reviewer) -> Response:
    """Accept, return or reject an answer; 409, and the answer as it stands, where another one was first."""
    said, remark, last = given.get("said", ""), given.get("remark", ""), given.get("last", "")
    try:
        with who.config.store.write() as session:
            store.decide(session, who.person, label, said, remark, whole(last))
    except store.Decided as error:
        return _label_page(who, label, 409, error=str(error), remark=remark)
    back = given.get("back", "")
    return RedirectResponse(f"{back if _BACK.match(back) else f'/labels/{label}'}#label-{label}", 303)


def _label_page(who: Visitor, label: int, status: int = 200, error: str = "", remark: str = "") -> Response:
    with who.config.store.read() as session:
        found = store.seen(session, label)
        if found is None:
            raise HTTPException(404, gettext("There is no such answer."))
        said = store.verdicts(session, label)
        shown = in_full(found)
    return page(
        who, "label.html", status, shown=shown, said=said, error=error, remark=remark, back=f"/labels/{label}"
    )


def in_full(found: store.SeenLabel) -> dict[str, Any]:
    """A label as a page shows it: the responses best first, lettered as the person saw them."""
    label, item = found.label, found.item
    content = label.content
    ranks = ranks_of(label.kind, content) or content.get("ranks") or [None] * len(item.responses)
    written = written_in(label.kind, content)
    order = label.shown_order if len(label.shown_order) == len(item.responses) else range(len(ranks))
    responses = [
        {
            "letter": place,
            "text": item.responses[index].text,
            "rank": ranks[index],
            "quality": (content.get("quality") or [None] * len(ranks))[index],
            "flags": [FLAGS.get(flag, flag) for flag in (content.get("flags") or [[]] * len(ranks))[index]],
            "gold": item.gold[index] if item.gold else None,
            "rewritten": written is not None and written[1] == index,
        }
        for place, index in enumerate(order)
    ]
    responses.sort(key=lambda row: (row["rank"] is None, row["rank"] or 0, row["letter"]))
    return {
        "found": found,
        "label": label,
        "item": item,
        "responses": responses,
        "written": written[0] if written else None,
        "replaces": written is not None and written[1] is not None,
        "composed": _composed(label.kind, content, {index: place for place, index in enumerate(order)}),
        "checks": [_check_in_words(made) for made in label.checks or ()],
        "all_bad": content.get("all_bad") or content.get("choice") == "both_bad",
        "reason": gettext(SKIP_REASONS.get(content["reason"], content["reason"]))
        if label.kind == "skip"
        else None,
        "note": content.get("note", ""),
        "ordered": item.kind in ORDERING,
    }


def _check_in_words(made: dict[str, Any]) -> dict[str, Any]:
    said = retold_check(made["said"])
    passed = gettext("not passed") if said.get("passed") is False else gettext("passed")
    words = said.get("error") or said.get("says") or passed
    if "score" in said:
        words = short(said["score"])
        if said["of"]:
            words = gettext(
                "%(score)s, above %(above)s of %(of)s", score=words, above=said["above"], of=said["of"]
            )
    return {
        "name": made["name"],
        "words": words,
        "bad": said.get("passed") is False,
        "changed": made["changed"],
    }


def _composed(kind: str, content: dict[str, Any], letters: dict[int, int]) -> dict[str, Any] | None:
    """An answer of parts: its text in pieces, and the parts, each with its response's letter as shown."""
    parts, written = parts_of(kind, content), written_in(kind, content)
    if not parts or written is None:
        return None
    named = [part | {"letter": letters[part["response"]]} for part in parts]
    return {"pieces": in_pieces(written[0], parts), "parts": named}


def _as_seen(label: Label, name: str, order: list[int]) -> dict[str, Any]:
    """A label with its ranks in the reviewer's own order of the responses."""
    content = in_shown_order(label.kind, label.content, order)
    flags = content.get("flags") or [[] for _ in order]
    return {
        "name": name,
        "decided": label.adjudicates,
        "ranks": ranks_of(label.kind, content) or content.get("ranks") or [None] * len(order),
        "all_bad": content.get("all_bad") or content.get("choice") == "both_bad",
        "flags": [", ".join(gettext(FLAGS[flag]) for flag in given) for given in flags],
        "quality": content.get("quality") or [None] * len(order),
        "edit": content.get("edit"),
        "composed": _composed(label.kind, content, {place: place for place in range(len(order))}),
        "seconds": label.seconds,
        "note": content["note"],
    }
