"""What policies have been asked already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from labeling.store.models import Item, Response


def prompts_of(session: Session, origin: str) -> Iterator[Any]:
    """The prompts, as messages, of all tasks with a response of this origin."""
    written = exists().where(Response.item_id == Item.id, Response.origin == origin)
    return session.scalars(select(Item.prompt).where(written).order_by(Item.id))
