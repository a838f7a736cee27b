"""A reviewer's pages: where people disagree, and the decision that counts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from labeling.answers import FLAGS, ORDERING, drawn_order, in_shown_order, ranks_of
from labeling.store.labels import standing
from labeling.store.models import Item, Label, Person
from labeling.store.records import share_apart
from labeling.store.suggestions import by_people
from labeling.web.pages import page
from labeling.web.security import Reviewer, SignedInRoute
from labeling.web.work import ItemId, task_page

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
_MOST = 500  # tasks with several answers that one page looks at, the newest ones


@router.get("/review")
def review(who: Reviewer) -> Response:
    """Tasks that several people ranked, those they disagree about most first."""
    with who.config.store.read() as session:
        return page(who, "review.html", rows=_disputed(session))


@router.get("/review/{item}")
def decide(item: ItemId, who: Reviewer) -> Response:
    """The task with what others answered; what the reviewer submits stands in their place."""
    with who.config.store.read() as session:
        found = session.get(Item, item)
        if found is None or found.kind not in ORDERING:
            raise HTTPException(404, "There is no such task to decide.")
        order = drawn_order(who.config.secret, found.id, who.person.id, len(found.responses))
        query = select(Label, Person.name).join(Person, Person.id == Label.person_id)
        query = query.where(Label.item_id == item, standing(), Label.kind != "skip").order_by(Label.id)
        others = [_as_seen(label, name, order) for label, name in session.execute(query)]
    if not others:
        raise HTTPException(404, "Nobody has answered this task yet.")
    return task_page(who, found, others)


def _disputed(session: Session) -> list[dict[str, Any]]:
    several = (
        select(Label.item_id)
        .where(standing(), by_people(), Label.kind.in_(ORDERING), Label.adjudicates.is_(False))
        .group_by(Label.item_id)
        .having(func.count() > 1)
        .order_by(Label.item_id.desc())
        .limit(_MOST)
    )
    query = select(Label, Item).join(Item, Item.id == Label.item_id).where(standing(), Label.kind != "skip")
    query = query.where(by_people())
    answers: dict[int, list[Label]] = {}
    items: dict[int, Item] = {}
    for label, item in session.execute(query.where(Label.item_id.in_(several)).order_by(Label.id)):
        answers.setdefault(item.id, []).append(label)
        items[item.id] = item
    rows = []
    for number, labels in answers.items():
        own = [label for label in labels if not label.adjudicates]
        ranked = [ranks for label in own if (ranks := ranks_of(label.kind, label.content)) is not None]
        rows.append(
            {
                "item": items[number],
                "people": len(own),
                "apart": share_apart(ranked),
                "decided": len(own) < len(labels),
            }
        )
    return sorted(rows, key=lambda row: (row["decided"], -(row["apart"] or 0.0), row["item"].id))


def _as_seen(label: Label, name: str, order: list[int]) -> dict[str, Any]:
    """A label with its ranks in the reviewer's own order of the responses."""
    content = in_shown_order(label.kind, label.content, order)
    flags = content.get("flags") or [[] for _ in order]
    return {
        "name": name,
        "decided": label.adjudicates,
        "ranks": ranks_of(label.kind, content) or content.get("ranks") or [None] * len(order),
        "all_bad": content.get("all_bad") or content.get("choice") == "both_bad",
        "flags": [", ".join(FLAGS[flag] for flag in given) for given in flags],
        "note": content["note"],
    }
