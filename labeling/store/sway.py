"""The labels that say how far suggestions sway people."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.store.labels import standing
from labeling.store.models import Label
from labeling.store.suggestions import HIDDEN, SEEN, by_people
from labeling.sway import Judgement, Sway
from labeling.sway import sway as measured


def judgements(session: Session) -> list[Judgement]:
    """People's standing rankings and comparisons that a suggestion goes with, shown or hidden."""
    label = (
        Label.item_id,
        Label.suggestion_shown,
        Label.suggestion_agreed,
        Label.suggestion_taken,
    )
    query = select(*label).where(standing(), by_people(), Label.suggestion_agreed.is_not(None))
    return [
        Judgement(item, how != HIDDEN, agreed or 0.0, bool(taken), how == SEEN)
        for item, how, agreed, taken in session.execute(query.order_by(Label.id))
    ]


def sway(session: Session) -> Sway:
    return measured(judgements(session))
