"""What people did: drafts that change, labels that never do."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from align.errors import UserError
from align.records import Ranking
from labeling.answers import checked, drawn_order, in_item_order, in_shown_order
from labeling.store.models import Draft, Guideline, Item, Label, Person, Slot, now
from labeling.store.people import add_person
from labeling.store.queue import lock_item, own_slot, place_for, release, was_given
from labeling.store.suggestions import note_suggestion

MAX_DRAFT = 400_000  # characters of JSON
_TOGETHER = 1000  # rows asked for at once


class NotYours(UserError):
    """The task was never given to this person."""


def standing(until: int | None = None) -> ColumnElement[bool]:
    """The condition that a label stands: nothing (up to label `until`) replaces it, it takes nothing back."""
    later = aliased(Label)
    replaced = exists().where(later.replaces == Label.id)
    if until is not None:
        replaced = replaced.where(later.id <= until)
    return and_(~replaced, Label.kind != "withdrawn")


def keep_guideline(session: Session, text: str) -> str:
    """Store a version of the guideline; its hash."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if session.get(Guideline, digest) is None:
        made = (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert(Guideline)
        session.execute(made.values(hash=digest, text=text, created=now()).on_conflict_do_nothing())
    return digest


def save_draft(session: Session, person: Person, item: int, content: dict[str, Any]) -> None:
    draft = session.get(Draft, (item, person.id))
    if draft is None:
        raise NotYours("This task was not given to you.")
    draft.content, draft.saved = content, now()


def submit(
    session: Session,
    person: Person,
    item: Item,
    *,
    content: Any,
    secret: str,
    submission: str,
    guideline: str | None,
    seconds: float,
    skip: bool = False,
    adjudicates: bool = False,
    quality: str = "optional",
) -> Label:
    """Add a label. `content` is in the order shown; a second call with the same `submission` adds nothing.

    Raises UserError for an incomplete answer, NotYours where the task was never given to this person.
    """
    # Whoever comes second here, with the same submission too, waits until the first has committed.
    given = lock_item(session, item.id) if adjudicates else was_given(session, person, item.id)
    known = session.scalar(select(Label).where(Label.submission == submission))
    if not given or (known is not None and known.person_id != person.id):
        raise NotYours("This task was not given to you.")
    if known is not None:
        return known
    kind = "skip" if skip else item.kind
    answer = checked(kind, content, len(item.responses), "optional" if adjudicates else quality)
    order = drawn_order(secret, item.id, person.id, len(item.responses))
    if guideline is not None and session.get(Guideline, guideline) is None:
        raise UserError("This guideline is not known: load the page again.")
    label = Label(
        item_id=item.id,
        person_id=person.id,
        kind=kind,
        content=in_item_order(kind, answer, order),
        guideline=guideline,
        shown_order=order,
        seconds=seconds,
        adjudicates=adjudicates,
        replaces=_before(session, person, item, adjudicates),
        submission=submission,
    )
    if not adjudicates:
        slot = place_for(session, person, item.id)
        if slot.state == "done":
            raise UserError("You have answered this task already: reopen it to change the answer.")
        label.seconds = min(seconds, (now() - slot.taken).total_seconds()) if slot.taken else seconds
        if skip:
            release(slot)
        else:
            slot.state, slot.leased_until = "done", None
    draft = session.get(Draft, (item.id, person.id))
    if draft is not None:
        draft.content, draft.saved = {}, now()
        if not adjudicates:
            note_suggestion(session, label, draft)
    session.add(label)  # whole: it can't be changed once it is written
    session.flush()
    session.add(label)  # last: in PostgreSQL other people's labels wait from here on
    session.flush()
    return label


def reopen(session: Session, person: Person, label_id: int) -> Item:
    """Take an own label back, to give another one; the item, leased again, with the answer as a draft."""
    label = session.scalar(select(Label).where(Label.id == label_id, Label.person_id == person.id))
    if label is not None:
        was_given(session, person, label.item_id)
    stands = session.scalar(select(Label.id).where(Label.id == label_id, standing())) is not None
    if label is None or label.adjudicates or not stands:
        raise NotYours("This is not an answer of yours that stands.")
    item = session.get_one(Item, label.item_id)
    slot = place_for(session, person, item.id)
    slot.state, slot.taken = "leased", now()
    slot.leased_until = now()  # the page that opens now prolongs it
    session.add(
        Label(
            item_id=item.id,
            person_id=person.id,
            kind="withdrawn",
            content={},
            shown_order=label.shown_order,
            replaces=label.id,
            submission=secrets.token_hex(16),
        )
    )
    draft = session.get_one(Draft, (item.id, person.id))
    answer = {} if label.kind == "skip" else in_shown_order(label.kind, label.content, label.shown_order)
    draft.content, draft.saved = answer, now()
    session.flush()
    return item


def keep_rankings(session: Session, said: Iterable[tuple[int, Ranking]]) -> int:
    """Rankings that people made elsewhere, as labels of theirs; how many are new.

    Who has no account here gets one that is closed. Later rankings of a person replace earlier ones.
    """
    kept, said = 0, list(said)
    _lock(session, {number for number, _ in said})
    people = {person.name: person for person in session.scalars(select(Person))}
    for number, ranking in said:
        item = session.get_one(Item, number)
        ordered = sum(rank is not None for rank in ranking.ranks) > 1
        if item.gold is not None or not ordered or ranking.labeler is None:
            continue
        name = " ".join(ranking.labeler.split())
        if name in people and people[name].role == "machine":
            continue  # our own machine's labels, exported: no person said so
        if name not in people:
            people[name] = add_person(session, name, "labeler")
            people[name].disabled = now()
        person, count = people[name], len(ranking.ranks)
        same = hashlib.sha256(json.dumps([item.key, name, ranking.ranks]).encode()).hexdigest()[:32]
        if session.scalar(select(Label.id).where(Label.submission == same)) is not None:
            continue
        nothing: list[None] = [None] * count
        content = {"ranks": list(ranking.ranks), "quality": nothing, "flags": [[] for _ in nothing]}
        guideline = ranking.guideline
        label = Label(
            item_id=item.id,
            person_id=person.id,
            kind=item.kind,
            content=checked(item.kind, content, count),
            guideline=guideline if guideline and session.get(Guideline, guideline) else None,
            shown_order=list(ranking.shown_order or range(count)),
            seconds=ranking.seconds,
            replaces=_before(session, person, item, adjudicates=False),
            submission=same,
        )
        slot = place_for(session, person, item.id)
        slot.state, slot.leased_until = "done", None
        session.add(label)
        session.flush()
        kept += 1
    return kept


def _lock(session: Session, items: set[int]) -> None:
    """Take what others hold while they wait to write a label: the tasks, then their places.

    To be called before the first of several labels in a transaction: who has written one waits for nobody.
    """
    for start in range(0, len(items), _TOGETHER):
        some = sorted(items)[start : start + _TOGETHER]
        tasks = select(Item.id).where(Item.id.in_(some)).order_by(Item.id)
        session.execute(tasks.with_for_update(key_share=True)).all()
    for start in range(0, len(items), _TOGETHER):
        some = sorted(items)[start : start + _TOGETHER]
        places = select(Slot.id).where(Slot.item_id.in_(some)).order_by(Slot.id)
        session.execute(places.with_for_update()).all()


def last_own(session: Session, person: Person) -> Label | None:
    """The person's newest label that stands."""
    mine = select(Label).where(standing(), Label.person_id == person.id, Label.adjudicates.is_(False))
    return session.scalars(mine.order_by(Label.id.desc()).limit(1)).first()


def last_on(session: Session, person: Person, item: int) -> Label | None:
    """The person's own label on a task that stands."""
    mine = select(Label).where(standing(), Label.person_id == person.id, Label.adjudicates.is_(False))
    return session.scalars(mine.where(Label.item_id == item).order_by(Label.id.desc()).limit(1)).first()


def history(session: Session, person: Person, limit: int = 200) -> list[tuple[Label, Item]]:
    """A person's own labels that stand, newest first."""
    query = select(Label, Item).join(Item, Item.id == Label.item_id)
    query = query.where(Label.person_id == person.id, standing())
    return [(label, item) for label, item in session.execute(query.order_by(Label.id.desc()).limit(limit))]


def holds(session: Session, person: Person, item: int) -> bool:
    """Whether the task is leased to this person."""
    slot = own_slot(session, person.id, item)
    return slot is not None and slot.state == "leased"


def _before(session: Session, person: Person, item: Item, adjudicates: bool) -> int | None:
    """The label that a new one comes after: the last of the person's own, or the last adjudication."""
    later = aliased(Label)
    query = select(Label.id).where(Label.item_id == item.id, ~exists().where(later.replaces == Label.id))
    if adjudicates:
        query = query.where(Label.adjudicates.is_(True))
    else:
        query = query.where(Label.person_id == person.id, Label.adjudicates.is_(False))
    return session.scalars(query.order_by(Label.id.desc()).limit(1)).first()
