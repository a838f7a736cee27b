"""Who does what next: leases that expire, priorities, gold items, nobody's own text, nobody twice."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from itertools import count, islice, takewhile

from sqlalchemy import Select, and_, exists, func, or_, select, union
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from align.errors import UserError
from labeling.language import gettext
from labeling.store import calibration
from labeling.store.assignment import fits
from labeling.store.calibration import Standard
from labeling.store.engine import Store
from labeling.store.models import Draft, Item, Label, Person, Response, Slot, Suggestion, is_newest, now

_TRIES = 20
PRIVATE = "private_conversation_with"  # in a task's meta: only the person who made the task gets it
HELD = ("leased", "reopened")  # a place that somebody works on
MANY = 100  # so many waiting tasks are counted for a page: a queue may be long


@dataclass(frozen=True)
class Rules:
    """How the queue behaves; the recipe's `labeling` section says so."""

    lease: timedelta
    gold_every: int = 0
    audit: float | None = None  # share of the machine's tasks that people judge too; None: all are people's
    secret: str = ""  # the database's: draws where gold tasks come
    calibration: Standard = Standard()


def take(store: Store, person: Person, rules: Rules) -> Item | None:
    """The task that this person has, or the next one for them, leased; None when there is none."""
    for _ in range(_TRIES):
        try:
            with store.write() as session:
                slot = _held(session, person) or _to_calibrate(session, person, rules)
                stage = calibration.stage(session, person, rules.calibration)
                if slot is None and (stage is None or stage.working or not stage.done and stage.said is None):
                    slot = _gold(session, person, rules) or _next(session, person, rules)
                if slot is None:
                    session.commit()
                    return None
                if slot.person_id != person.id or slot.state not in HELD:
                    slot.taken = now()
                if slot.state != "reopened":
                    slot.state, slot.person_id = "leased", person.id
                    slot.leased_until = now() + rules.lease
                if session.get(Draft, (slot.item_id, person.id)) is None:
                    session.add(Draft(item_id=slot.item_id, person_id=person.id, content={}))
                session.flush()
                return slot.item
        except IntegrityError:  # the same person in another tab, or a gold item's number: look again
            continue
    raise UserError(gettext("The queue is busy: try again."))


def heartbeat(session: Session, person: Person, item: int, rules: Rules) -> bool:
    """Prolong a lease; False where somebody else has the task by now."""
    slot = own_slot(session, person.id, item)
    if slot is None or slot.state not in HELD:
        return False
    if slot.state == "leased":
        slot.leased_until = now() + rules.lease
    return True


def was_given(session: Session, person: Person, item: int) -> bool:
    """Whether this person was ever given the task, and may therefore answer it; they do so one at a time."""
    return session.get(Draft, (item, person.id), with_for_update=True) is not None


def lock_item(session: Session, item: int) -> bool:
    """Lock the task until the transaction ends (in SQLite all writers wait anyway); whether it exists."""
    found = select(Item.id).where(Item.id == item).with_for_update(key_share=True)
    return session.scalar(found) is not None


def own_slot(session: Session, person: int, item: int) -> Slot | None:
    """The person's place on a task, locked until the transaction ends."""
    found = select(Slot).where(Slot.item_id == item, Slot.person_id == person).with_for_update(of=Slot)
    return session.scalar(found)


def place_for(session: Session, person: Person, item: int) -> Slot:
    """The person's slot of an item, a free one, or one more: a late answer is not thrown away."""
    slot = own_slot(session, person.id, item)
    if slot is None:
        free = select(Slot).where(Slot.item_id == item, Slot.state == "free").order_by(Slot.number).limit(1)
        slot = session.scalar(free.with_for_update(of=Slot, skip_locked=True))
    if slot is None:
        lock_item(session, item)  # its numbers
        slot = Slot(item_id=item, number=_next_number(session, item), taken=now())
        session.add(slot)
    slot.person_id = person.id
    slot.taken = slot.taken or now()
    return slot


def release(slot: Slot) -> None:
    """Give a slot back to the queue."""
    slot.state, slot.person_id, slot.leased_until, slot.taken = "free", None, None, None


def waiting(session: Session, person: Person, rules: Rules) -> int:
    """How many tasks there are for this person now, the one they hold included; MANY where there are more.

    Gold ones that are still to come among them are counted too. So each task that is done or skipped takes
    one away, whichever it is.
    """
    held = select(func.count()).select_from(Slot).where(Slot.person_id == person.id, Slot.state.in_(HELD))
    free = _available(person, rules).with_only_columns(Slot.item_id).distinct().limit(MANY).subquery()
    ahead = session.scalar(select(func.count()).select_from(free)) or 0
    gold = _gold_to_come(session, person, rules, ahead) if rules.gold_every else 0
    return min((session.scalar(held) or 0) + ahead + gold, MANY)


def _gold_to_come(session: Session, person: Person, rules: Rules, ahead: int) -> int:
    """How many gold tasks this person gets until `ahead` more of the others are done."""
    met, others = _met(session, person, gold=True), _met(session, person, gold=False) + ahead
    first = max(0, met - calibration.tasks_of(person, rules.calibration))
    there = Item.gold.is_not(None) & Item.hidden.is_(None) & fits(person.id)
    left = (session.scalar(select(func.count()).where(there)) or 0) - met
    due = takewhile(lambda number: _due(rules, person, number) <= others, count(first))
    return sum(1 for _ in islice(due, max(0, min(left, MANY))))


def _met(session: Session, person: Person, gold: bool) -> int:
    """How many tasks this person was given, gold ones or others; those that they skipped too."""
    given = select(Slot.item_id).where(Slot.person_id == person.id)
    said = select(Label.item_id).where(Label.person_id == person.id, Label.adjudicates.is_(False))
    met = union(given, said).subquery()
    query = select(func.count()).select_from(met).join(Item, Item.id == met.c.item_id)
    return session.scalar(query.where(Item.gold.is_not(None) if gold else Item.gold.is_(None))) or 0


def _due(rules: Rules, person: Person, number: int) -> int:
    """After how many other tasks a person gets gold task `number` (from 0): drawn in each `gold_every`."""
    drawn = random.Random(f"{rules.secret} gold {person.id} {number}").randrange(rules.gold_every)
    return number * rules.gold_every + 1 + drawn


def _held(session: Session, person: Person) -> Slot | None:
    held = select(Slot).where(Slot.person_id == person.id, Slot.state.in_(HELD))
    return session.scalar(held.order_by(Slot.taken.desc()).limit(1).with_for_update(of=Slot))


def _next(session: Session, person: Person, rules: Rules) -> Slot | None:
    query = _available(person, rules).order_by(Item.priority.desc(), Item.id, Slot.number).limit(1)
    return session.scalar(query.with_for_update(of=Slot, skip_locked=True))


def _available(person: Person, rules: Rules) -> Select[Slot]:
    mine = aliased(Slot)
    # No index for it: items are read by priority, up to the first free one.
    state = func.coalesce(Slot.state, "")
    skipped = exists().where(
        Label.item_id == Slot.item_id,
        Label.person_id == person.id,
        Label.kind.in_(("skip", "rejected")),
        is_newest(),
    )
    machines = exists().where(
        Item.kind == "rank", Suggestion.item_id == Slot.item_id, Suggestion.draw >= (rules.audit or 0.0)
    )
    return (
        select(Slot)
        .join(Item, Item.id == Slot.item_id)
        .where(
            or_(state == "free", and_(state == "leased", Slot.leased_until < now())),
            Item.gold.is_(None),
            Item.hidden.is_(None),
            fits(person.id),
            or_(Item.created_by == person.id, Item.meta[PRIVATE].as_string().is_(None)),
            ~exists().where(mine.item_id == Slot.item_id, mine.person_id == person.id),
            ~exists().where(Response.item_id == Slot.item_id, Response.author_id == person.id),
            ~skipped,
            *([] if rules.audit is None else [~machines]),
        )
    )


def _to_calibrate(session: Session, person: Person, rules: Rules) -> Slot | None:
    """A slot of a gold item for who has to pass first; where there is none left, what was done decides."""
    found = calibration.stage(session, person, rules.calibration)
    if found is None or found.said is not None:
        return None
    if found.done < rules.calibration.tasks:
        query = calibration.unmet(person).order_by(Item.priority.desc(), Item.id).limit(1)
        item = session.scalars(query).first()
        if item is not None:
            return _one_more(session, item)
    calibration.conclude(session, person, rules.calibration, none_left=True)
    return None


def _one_more(session: Session, item: Item) -> Slot:
    slot = Slot(item_id=item.id, number=_next_number(session, item.id), item=item)
    session.add(slot)
    return slot


def _gold(session: Session, person: Person, rules: Rules) -> Slot | None:
    """A slot of a gold item that this person has not met, when one is due."""
    if not rules.gold_every:
        return None
    number = max(0, _met(session, person, gold=True) - calibration.tasks_of(person, rules.calibration))
    if _met(session, person, gold=False) < _due(rules, person, number):
        return None
    met = exists().where(Slot.item_id == Item.id, Slot.person_id == person.id)
    tried = exists().where(Label.item_id == Item.id, Label.person_id == person.id)
    query = select(Item).where(Item.gold.is_not(None), Item.hidden.is_(None), fits(person.id), ~met, ~tried)
    item = session.scalars(query.order_by(Item.priority.desc(), Item.id).limit(1)).first()
    if item is None:
        return None
    return _one_more(session, item)


def _next_number(session: Session, item: int) -> int:
    return (session.scalar(select(func.max(Slot.number)).where(Slot.item_id == item)) or 0) + 1
