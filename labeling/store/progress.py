"""How far people have come: what `align iterate` goes by."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from labeling.answers import ORDERING
from labeling.store.models import Item, Label, Response, Slot
from labeling.store.records import Filters, labelled


@dataclass(frozen=True)
class LabelCounts:
    """Demonstrations and ranked tasks that train; `open_…`: tasks that wait for somebody."""

    demonstrations: int
    open_demonstrations: int
    rankings: int  # tasks of the policy that is asked about
    open_rankings: int
    tasks: int  # of that policy, all in all
    last_label: int  # the newest label's number


def progress(session: Session, demonstrations: Filters, rankings: Filters, origin: str | None) -> LabelCounts:
    """`origin`: the policy whose tasks are to be ranked; None: none yet."""
    waits = exists().where(Slot.item_id == Item.id, Slot.state.in_(("free", "leased")), Item.hidden.is_(None))
    written = exists().where(Response.item_id == Item.id, Response.origin == origin)
    asked = select(func.count()).select_from(Item).where(Item.kind == "demonstrate", waits)
    ours = set(session.scalars(select(Item.id).where(written, Item.kind.in_(ORDERING))))
    waiting = set(session.scalars(select(Item.id).where(written, waits))) & ours
    ranked = {item.id for item, _ in labelled(session, "rankings", rankings)} & ours
    return LabelCounts(
        demonstrations=sum(1 for _ in labelled(session, "demonstrations", demonstrations)),
        open_demonstrations=session.scalar(asked) or 0,
        rankings=len(ranked),
        open_rankings=len(waiting - ranked),
        tasks=len(ours),
        last_label=session.scalar(select(func.max(Label.id))) or 0,
    )
