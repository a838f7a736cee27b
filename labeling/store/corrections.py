"""What people wrote in place of a policy's answer in a talk, or chose of two: task and label at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from align.errors import UserError
from labeling.answers import Answer, in_shown_order
from labeling.language import gettext
from labeling.store.items import add_items
from labeling.store.labels import NotYours, keep_guideline, last_act, last_own, submit
from labeling.store.models import Draft, Item, Label, Person, in_turn
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
    seal: str | None = None,
) -> Label:
    """Add a task to correct `answer`, and the person's label on it; done for everybody else.

    An answer without letters makes a task to demonstrate. The same correction again replaces the first, and a
    second call with the same `submission` and text adds nothing. `guideline` is its text; `seal`: the one of
    the answer, by which the checks that the person asked for are known. Raises UserError for a bad prompt, an
    empty text, or a known `submission` with another text.
    """
    responses = [{"text": answer, "origin": origin}] if answer.strip() else []
    row = {"prompt": prompt, "responses": responses, "overlap": 1, "meta": {PRIVATE: origin}}
    item = _private_item(session, person, row)
    known = _known(session, person, submission)
    if known is not None:
        if (known.item_id, known.content.get("text")) != (item.id, text):
            raise UserError(gettext("An earlier version of this text was kept, not this one: keep it again."))
        return known
    given = _answer(session, person, item, {"text": text}, guideline, seconds, submission)
    return submit(session, person, item, given, secret, talk=seal)


def keep_choice(
    session: Session,
    person: Person,
    *,
    prompt: Any,
    responses: list[tuple[str, str]],
    shown_order: list[int],
    choice: str,
    guideline: str,
    seconds: float,
    secret: str,
    submission: str,
) -> Label:
    """Add a task to compare two policies' answers, and what the person chose; done for everybody else.

    responses: each policy's text and name. shown_order: which of them stood first and second on the page.
    choice: `first`, `second` or `tie`, as they were shown. A second call with the same `submission` and
    choice adds nothing. Raises UserError for a bad prompt or text, or a known `submission` with another
    choice.
    """
    row = {
        "prompt": prompt,
        "kind": "compare",
        "responses": [{"text": text, "origin": origin} for text, origin in responses],
        "overlap": 1,
        "meta": {PRIVATE: " and ".join(origin for _, origin in responses)},
    }
    item = _private_item(session, person, row)
    known = _known(session, person, submission)
    content = {"choice": choice}
    if known is not None:
        chosen = in_shown_order("compare", known.content, shown_order)["choice"]
        if (known.item_id, chosen) != (item.id, choice):
            raise UserError(gettext("Your first choice was kept, not this one: choose again."))
        return known
    given = _answer(session, person, item, content, guideline, seconds, submission)
    return submit(session, person, item, given, secret, order=shown_order)


def _private_item(session: Session, person: Person, row: dict[str, Any]) -> Item:
    in_turn(session, "items")  # a second call with the same submission sees the first one's label
    added = add_items(session, [row], 1, person)
    return session.get_one(Item, (added.ids or added.before)[0])


def _known(session: Session, person: Person, submission: str) -> Label | None:
    known = session.scalar(select(Label).where(Label.submission == submission))
    if known is not None and known.person_id != person.id:
        raise NotYours(gettext("This answer was given by somebody else."))
    return known


def _answer(
    session: Session,
    person: Person,
    item: Item,
    content: dict[str, Any],
    guideline: str,
    seconds: float,
    submission: str,
) -> Answer:
    """The person's answer to a task that they hold from here on, in place of an earlier one of theirs."""
    before = last_own(session, person, item.id)
    slot = place_for(session, person, item.id)
    slot.taken = last_act(session, person)
    if session.get(Draft, (item.id, person.id)) is None:
        session.add(Draft(item_id=item.id, person_id=person.id, content={}))
    session.flush()
    return Answer(
        content=content,
        submission=submission,
        guideline=keep_guideline(session, guideline),
        seconds=seconds,
        instead_of=[before.submission] if before is not None else [],
    )
