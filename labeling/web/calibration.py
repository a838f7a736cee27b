"""What a labeler sees after each of the first gold tasks: the known order beside their own."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from labeling.answers import ranks_of
from labeling.language import gettext
from labeling.store import calibration as store
from labeling.store.labels import NotYours
from labeling.store.models import Item, Label
from labeling.web.pages import page
from labeling.web.security import SignedIn, SignedInRoute
from labeling.web.work import ItemId

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)


@router.get("/calibration/{label}")
def feedback(label: ItemId, who: SignedIn) -> Response:
    """An own answer of the calibration beside the known order."""
    standard = who.config.rules.calibration
    with who.config.store.read() as session:
        found = session.get(Label, label)
        mine = found is not None and found.person_id == who.person.id
        item = session.get(Item, found.item_id) if found is not None else None
        if found is None or item is None or item.gold is None or not mine:
            raise NotYours(gettext("You have no such answer."))
        if not store.is_feedback(session, who.person, found, standard):
            raise NotYours(gettext("You have no such answer."))
        stage = store.stage(session, who.person, standard)
    ranks = ranks_of(found.kind, found.content)
    alike, pairs = store.score(ranks, item.gold)
    rows = [
        {
            "letter": place,
            "text": item.responses[index].text,
            "yours": ranks[index] if ranks else None,
            "known": item.gold[index],
        }
        for place, index in enumerate(found.shown_order)
    ]
    rows.sort(key=lambda row: (row["known"] is None, row["known"] or 0))
    why = item.meta.get("explanation")
    return page(
        who,
        "calibration.html",
        rows=rows,
        alike=alike,
        pairs=pairs,
        stage=stage,
        standard=standard,
        why=why if isinstance(why, str) else "",
    )
