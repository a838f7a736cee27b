"""What the reward model made of a task, shown once somebody has answered it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from align.stats.rankings import disagreement
from labeling.store.labels import NotYours
from labeling.store.models import Item, Label, Suggestion
from labeling.store.suggestions import AFTER, SEEN
from labeling.web.config import Config
from labeling.web.pages import page
from labeling.web.security import PEOPLE, Visitor, needs
from labeling.web.work import ItemId
from labeling.work import ranks_of

router = APIRouter(include_in_schema=False)
_person = Depends(needs(*PEOPLE))


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
            raise NotYours("There is no such answer of yours with a suggestion to show.")
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
