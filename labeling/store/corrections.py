"""What people wrote in place of a policy's answer while they talked to it: a task and its label at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from align.errors import UserError
from labeling.answers import Answer
from labeling.store.items import add_items
from labeling.store.labels import NotYours, keep_guideline, last_own, submit
from labeling.store.models import Draft, Item, Label, Person, in_turn, now
from labeling.store.queue import PRIVATE, place_for


def keep_correction(
    session: Session,
    person: Person,
    *,
    prompt: Any,
    answer: str,
    text: str,
    origin: str,
    guideline: str,
    seconds: float,
    secret: str,
    submission: str,
) -> Label:
    """Add a task to correct `answer`, and the person's label on it; done for everybody else.

    An answer without letters makes a task to demonstrate. The same correction again replaces the first, and a
    second call with the same `submission` and text adds nothing. `guideline` is its text. Raises UserError
    for a bad prompt, an empty text, or a known `submission` with another text.
    """
    in_turn(session, "items")  # a second call with the same submission sees the first one's label
    responses = [{"text": answer, "origin": origin}] if answer.strip() else []
    row = {"prompt": prompt, "responses": responses, "overlap": 1, "meta": {PRIVATE: origin}}
    added = add_items(session, [row], 1, person)
    item = session.get_one(Item, (added.ids or added.before)[0])
    known = session.scalar(select(Label).where(Label.submission == submission))
    if known is not None and known.person_id != person.id:
        raise NotYours("This answer was given by somebody else.")
    if known is not None:
        if (known.item_id, known.content.get("text")) != (item.id, text):
            raise UserError("An earlier version of this text was kept, not this one: keep it again.")
        return known
    before = last_own(session, person, item.id)
    slot = place_for(session, person, item.id)
    slot.taken = now() - timedelta(seconds=seconds)
    if session.get(Draft, (item.id, person.id)) is None:
        session.add(Draft(item_id=item.id, person_id=person.id, content={}))
    session.flush()
    given = Answer(
        content={"text": text},
        submission=submission,
        guideline=keep_guideline(session, guideline),
        seconds=seconds,
        instead_of=[before.submission] if before is not None else [],
    )
    return submit(session, person, item, given, secret)
