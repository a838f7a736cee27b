"""What a lead does with tasks: find them, hide, delete, requeue, reorder, ask more people, assign."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, selectinload

from align.errors import UserError
from labeling.answers import FLAGS, KINDS, SKIP_REASONS
from labeling.language import N_, gettext
from labeling.store.assignment import ask_for, listed, nobody_can
from labeling.store.audit import note
from labeling.store.engine import Store
from labeling.store.labels import lock_all
from labeling.store.models import (
    AnswerCheck,
    Draft,
    Item,
    Label,
    Need,
    Person,
    Response,
    Slot,
    Suggestion,
    Summary,
    now,
    standing,
)
from labeling.store.pages import Page, paged
from labeling.store.queue import release
from labeling.store.suggestions import by_people
from labeling.store.summary import summarise

STATES = {
    "open": N_("waiting for people"),
    "worked": N_("being worked on"),
    "done": N_("done"),
    "gold": N_("gold"),
    "hidden": N_("hidden"),
    "skipped": N_("skipped by somebody"),
    "flagged": N_("with flags"),
    "stuck": N_("nobody can take them"),
}
ACTIONS = ("hide", "show", "requeue", "delete", "priority", "overlap", "assign")
TASKS_A_PAGE = 50
_MOST_STUCK = 10_000  # that one filter names: databases take so many values in a query, not any number
_TOGETHER = 100  # tasks changed in one transaction: labelers write between them
_PAUSE = 0.12  # seconds: who waits at SQLite's lock looks again every tenth of a second


@dataclass(frozen=True)
class Chosen:
    """Tasks: these, or all of a kind and in a state."""

    ids: Sequence[int] = ()
    kind: str | None = None
    state: str | None = None
    by_filter: bool = False

    def conditions(self, session: Session) -> list[ColumnElement[bool]]:
        """What holds for them."""
        if not self.by_filter:
            return [Item.id.in_(self.ids)]
        return filtered(session, self.kind, self.state)


@dataclass(frozen=True)
class Change:
    """One of ACTIONS; `priority`, `overlap`, `needs` (names, skills, language) where it is about them."""

    action: str
    priority: float = 0.0
    overlap: int = 1
    needs: Sequence[Need] = ()


def filtered(session: Session, kind: str | None, state: str | None) -> list[ColumnElement[bool]]:
    """The conditions of a filter; state: one of STATES."""
    found = [Item.kind == kind] if kind else []
    place = Slot.item_id == Item.id
    slot_state = func.coalesce(Slot.state, "")  # no index for it: an item has few places
    waits = exists().where(place, slot_state == "free")
    conditions: dict[str, Callable[[], ColumnElement[bool]]] = {
        "open": lambda: waits & Item.hidden.is_(None),
        "worked": lambda: exists().where(place, slot_state.in_(("leased", "reopened"))),
        "done": lambda: Item.gold.is_(None) & ~exists().where(place, slot_state.not_in(("done", "reopened"))),
        "gold": lambda: Item.gold.is_not(None),
        "hidden": lambda: Item.hidden.is_not(None),
        "skipped": lambda: exists().where(Summary.item_id == Item.id, Summary.skips > 0),
        "flagged": lambda: exists().where(Summary.item_id == Item.id, Summary.flags > 0),
        "stuck": lambda: Item.id.in_(nobody_can(session)[:_MOST_STUCK]),
    }
    return [*found, conditions[state]()] if state else found


def listing(session: Session, kind: str | None, state: str | None, number: int) -> Page[tuple[Item]]:
    """Tasks, newest first."""
    query = select(Item).where(*filtered(session, kind, state)).options(selectinload(Item.needs))
    return paged(session, query, number, TASKS_A_PAGE, (Item.id.desc(),))


def places(session: Session, items: Sequence[int]) -> dict[int, dict[str, int]]:
    """How many places of each state these tasks have."""
    query = select(Slot.item_id, Slot.state, func.count()).where(Slot.item_id.in_(items))
    found: dict[int, dict[str, int]] = {}
    for item, state, count in session.execute(query.group_by(Slot.item_id, Slot.state)):
        found.setdefault(item, {})[state] = count
    return found


def reasons(session: Session, items: Sequence[int]) -> dict[int, list[str]]:
    """Why people skipped these tasks, and what they flagged in them, in words."""
    query = select(Label.item_id, Label.kind, Label.content, Person.name)
    query = query.join(Person, Person.id == Label.person_id).join(Summary, Summary.item_id == Label.item_id)
    query = query.where(Label.item_id.in_(items), standing(), by_people())
    query = query.where(or_(Summary.skips > 0, Summary.flags > 0)).order_by(Label.id)
    found: dict[int, list[str]] = {}
    for item, kind, content, name in session.execute(query):
        said = found.setdefault(item, [])
        if kind == "skip":
            remark = f" ({content['note']})" if content.get("note") else ""
            reason = gettext(SKIP_REASONS.get(content["reason"], content["reason"]))
            said.append(gettext("%(name)s skipped: %(reason)s", name=name, reason=reason) + remark)
        for i, flags in enumerate(content.get("flags") or ()):
            said += [
                gettext(
                    "%(name)s, response %(number)s: %(flag)s",
                    name=name,
                    number=i + 1,
                    flag=gettext(FLAGS.get(flag, flag)),
                )
                for flag in flags
            ]
    return found


def count(session: Session, chosen: Chosen) -> int:
    """How many tasks these are."""
    return session.scalar(select(func.count()).select_from(Item).where(*chosen.conditions(session))) or 0


def wanted(people: str, skills: str, language: str, names: dict[str, int]) -> list[Need]:
    """What tasks shall ask for, as comma-separated texts. Raises UserError."""
    found = []
    for name in listed(people, lower=False):
        if name not in names:
            raise UserError(gettext("Nobody is called %(name)s.", name=name))
        found.append(Need(kind="person", value=str(names[name])))
    found += [Need(kind="skill", value=value) for value in listed(skills)]
    return found + [Need(kind="language", value=value) for value in listed(language)]


def change(store: Store, by: Person, chosen: Chosen, wanted: Change) -> Counter[str]:
    """Change tasks, some at a time so that nobody waits; how many of them were changed how."""
    if wanted.action not in ACTIONS:
        raise UserError(gettext("Choose what to do with the tasks."))
    with store.read() as session:
        ids = list(session.scalars(select(Item.id).where(*chosen.conditions(session)).order_by(Item.id)))
    done: Counter[str] = Counter()
    for start in range(0, len(ids), _TOGETHER):
        if start and store.is_sqlite:
            time.sleep(_PAUSE)
        some = ids[start : start + _TOGETHER]
        with store.write() as session:
            lock_all(session, set(some))
            there = list(session.scalars(select(Item.id).where(Item.id.in_(some)).order_by(Item.id)))
            part = _ACTIONS[wanted.action](session, there, wanted)
            done += part
            shown = {name: number for name, number in part.items() if number}
            note(session, by, f"tasks: {wanted.action}", "task", detail=shown, tasks=there)
    return done


def _hide(session: Session, items: list[int], _: Change) -> Counter[str]:
    session.execute(update(Item).where(Item.id.in_(items), Item.hidden.is_(None)).values(hidden=now()))
    return Counter(hidden=len(items))


def _show(session: Session, items: list[int], _: Change) -> Counter[str]:
    session.execute(update(Item).where(Item.id.in_(items)).values(hidden=None))
    return Counter(shown=len(items))


def _requeue(session: Session, items: list[int], wanted: Change) -> Counter[str]:
    """Places that somebody holds are free again, skips are forgotten, and hidden tasks are shown."""
    _show(session, items, wanted)
    for slot in session.scalars(select(Slot).where(Slot.item_id.in_(items), Slot.state == "leased")):
        release(slot)
    session.flush()
    skips = session.scalars(
        select(Label).where(Label.item_id.in_(items), Label.kind == "skip", standing()).order_by(Label.id)
    ).all()
    for skip in skips:
        session.add(
            Label(
                item_id=skip.item_id,
                person_id=skip.person_id,
                kind="withdrawn",
                content={},
                shown_order=skip.shown_order,
                replaces=skip.id,
                submission=f"requeued {secrets.token_hex(12)}",
            )
        )
    session.flush()
    summarise(session, {skip.item_id for skip in skips})
    return Counter(requeued=len(items))


def _delete(session: Session, items: list[int], wanted: Change) -> Counter[str]:
    """Tasks that nobody has touched go; those with labels, suggestions or work on them are hidden."""
    place = Slot.item_id == Item.id
    held = exists().where(
        place, or_(Slot.state == "reopened", (Slot.state == "leased") & (Slot.leased_until > now()))
    )
    begun = exists().where(Draft.item_id == Item.id, Draft.revision > 0)
    touched = select(Item.id).where(
        Item.id.in_(items),
        or_(
            exists().where(Label.item_id == Item.id),
            exists().where(Suggestion.item_id == Item.id),
            exists().where(AnswerCheck.item_id == Item.id),
            held,
            begun,
        ),
    )
    kept = set(session.scalars(touched))
    gone = [item for item in items if item not in kept]
    for table in (Response, Slot, Draft, Need, Summary):
        session.execute(delete(table).where(table.item_id.in_(gone)))
    session.execute(delete(Item).where(Item.id.in_(gone)))
    _hide(session, sorted(kept), wanted)
    return Counter(deleted=len(gone), hidden=len(kept))


def _prioritise(session: Session, items: list[int], wanted: Change) -> Counter[str]:
    if not -1e9 <= wanted.priority <= 1e9:
        raise UserError(gettext("A priority is a number from -1e9 to 1e9."))
    session.execute(update(Item).where(Item.id.in_(items)).values(priority=wanted.priority))
    return Counter(reordered=len(items))


def _overlap(session: Session, items: list[int], wanted: Change) -> Counter[str]:
    """Free places are added or taken away; none that somebody has."""
    if not 1 <= wanted.overlap <= 50:
        raise UserError(gettext("A task is done by 1 to 50 people."))
    done: Counter[str] = Counter()
    for item in session.scalars(select(Item).where(Item.id.in_(items))):
        if item.gold is not None:
            done["left as they are, being gold"] += 1
            continue
        there = session.scalars(select(Slot).where(Slot.item_id == item.id).order_by(Slot.number)).all()
        first = max((slot.number for slot in there), default=-1) + 1
        missing = wanted.overlap - len(there)
        session.add_all(Slot(item_id=item.id, number=first + i) for i in range(missing))
        spare = [slot for slot in there if slot.state == "free"][: max(0, -missing)]
        for slot in spare:
            session.delete(slot)
        item.overlap = wanted.overlap
        done["changed"] += 1
    return done


def _assign(session: Session, items: list[int], wanted: Change) -> Counter[str]:
    ask_for(session, items, wanted.needs)
    return Counter(assigned=len(items))


_ACTIONS: dict[str, Callable[[Session, list[int], Change], Counter[str]]] = {
    "hide": _hide,
    "show": _show,
    "requeue": _requeue,
    "delete": _delete,
    "priority": _prioritise,
    "overlap": _overlap,
    "assign": _assign,
}


def counts(session: Session) -> dict[str, Any]:
    """What stands above the list: places by state, tasks by kind, gold ones, and those nobody can take."""
    states = select(Slot.state, func.count()).group_by(Slot.state)
    kinds = select(Item.kind, func.count()).group_by(Item.kind)
    gold = select(func.count()).select_from(Item).where(Item.gold.is_not(None))
    found = dict(session.execute(kinds).all())
    return {
        "slots": dict(session.execute(states).all()),
        "kinds": [(kind, found[kind]) for kind in sorted(KINDS) if kind in found],
        "gold": session.scalar(gold),
        "stuck": len(nobody_can(session)),
    }
