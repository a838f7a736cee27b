"""Checks of their own answers that people asked for: kept as they come, and noted on the label.

What a check said is {"score": …, "above": of how many of the task's responses, "of": how many there are},
{"passed": …, "says": …} or {"error": …}.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from align.errors import UserError
from labeling.answers import storable
from labeling.language import gettext
from labeling.store.models import AnswerCheck, Draft, Item, Label, Person

MOST_CHECKS = 30  # of one person on one answer


def text_hash(text: str) -> str:
    """The sha256 of an answer's text in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class About:
    """What an own text is to answer: a task, or in a talk what the policy said, by its seal."""

    item: int | None = None
    talk: str | None = None


def to_check(session: Session, person: Person, item: int) -> Item | None:
    """The task; None where it was never given to this person."""
    given = session.get(Draft, (item, person.id)) is not None
    return session.get_one(Item, item) if given else None


def check_room(session: Session, person: Person, about: About) -> None:
    """Raises UserError where the person had this answer checked MOST_CHECKS times."""
    if len(checks_of(session, person.id, about)) >= MOST_CHECKS:
        raise UserError(
            gettext(
                "You had this answer checked %(times)s times: send it without another check.",
                times=MOST_CHECKS,
            )
        )


def keep_check(
    session: Session,
    person: Person,
    about: About,
    name: str,
    version: str | None,
    text: str,
    said: dict[str, Any],
) -> AnswerCheck:
    """Keep what a check said of a text."""
    made = AnswerCheck(item_id=about.item, talk=about.talk, person_id=person.id, name=name, version=version)
    made.text_hash, made.said = text_hash(text), said
    session.add(made)
    session.flush()
    return made


def checks_of(session: Session, person: int, about: About) -> list[AnswerCheck]:
    """All checks that a person asked for on a task, or on an answer of a talk, or both; oldest first."""
    same = [AnswerCheck.item_id == about.item] if about.item is not None else []
    same += [AnswerCheck.talk == about.talk] if about.talk is not None else []
    query = select(AnswerCheck).where(or_(*same), AnswerCheck.person_id == person)
    return list(session.scalars(query.order_by(AnswerCheck.id)))


def note_checks(session: Session, label: Label, text: str | None, talk: str | None = None) -> None:
    """Write on a new label which checks went before it, and whether its text is another one since.

    `talk`: the seal of the answer that it corrects, where it comes from a talk.
    """
    hashed = text_hash(text) if text is not None else None
    found = [
        {
            "check": made.id,
            "name": made.name,
            "version": made.version,
            "asked": made.created.isoformat(),
            "text": made.text_hash,
            "said": made.said,
            "changed": made.text_hash != hashed,
        }
        for made in checks_of(session, label.person_id, About(label.item_id, talk))
    ]
    label.checks = found or None


def names_of_checks(label: Label) -> list[str]:
    """What a label's checks are called, each once."""
    return sorted({made["name"] for made in label.checks or ()})


def said_before(session: Session, person: int, item: Item, draft: Draft | None) -> list[dict[str, Any]]:
    """The last that each check said of a person's answer; `current`: of the text that the draft has."""
    content = draft.content if draft is not None else {}
    text = (content.get("edit") or {}).get("text") if item.kind == "rank" else content.get("text")
    last = {made.name: made for made in checks_of(session, person, About(item.id))}
    now = text_hash(text) if isinstance(text, str) and storable(text) else None
    return [{"check": n, "said": made.said, "current": made.text_hash == now} for n, made in last.items()]
