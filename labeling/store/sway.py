"""The labels that say how far suggestions sway people."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.store.labels import standing
from labeling.store.models import Label
from labeling.store.suggestions import HIDDEN, SEEN
from labeling.sway import Judgement, SuggestionEffect
from labeling.sway import suggestion_effect as measured


def judgements(session: Session) -> list[Judgement]:
    """People's standing rankings and comparisons that a suggestion goes with, shown or hidden."""
    columns = (Label.item_id, Label.suggestion_shown, Label.suggestion_agreed, Label.suggestion_taken)
    query = select(*columns).where(
        standing(), Label.suggestion_agreed.is_not(None)
    )  # a machine's own have none
    return [
        Judgement(item, how != HIDDEN, agreed or 0.0, bool(taken), how == SEEN)
        for item, how, agreed, taken in session.execute(query.order_by(Label.id))
    ]


def measured_effect(session: Session) -> SuggestionEffect:
    return measured(judgements(session))
