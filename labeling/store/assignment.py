"""Which tasks are for whom: a task may name people, skills, a language; a person has skills and languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Exists, Select, String, and_, cast, delete, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from align.errors import UserError
from align.values import RecordError
from labeling.answers import storable
from labeling.language import gettext
from labeling.store.models import Ability, Item, Label, Need, Person, Response, Slot, is_newest

NEEDS = ("people", "skills", "language")  # keys of a task
_MOST = 50  # of one kind


def fits(person: int | InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """The condition that a person has all that `Item` asks for."""
    need, named, mine = aliased(Need), aliased(Need), aliased(Need)
    number = str(person) if isinstance(person, int) else cast(person, String)
    has = _exists(
        Ability, Ability.person_id == person, Ability.kind == need.kind, Ability.value == need.value
    )
    lacks = _exists(need, need.item_id == Item.id, need.kind != "person", ~has)
    anybody = ~_exists(named, named.item_id == Item.id, named.kind == "person")
    chosen = _exists(mine, mine.item_id == Item.id, mine.kind == "person", mine.value == number)
    return and_(~lacks, or_(anybody, chosen))


def nobody_can(session: Session) -> list[int]:
    """The tasks that wait for somebody, and that nobody who has an account could take."""
    free = func.coalesce(Slot.state, "") == "free"  # no index for it: an item has few places
    open_place = _exists(Slot, Slot.item_id == Item.id, free)
    waiting = select(Item.id).where(Item.gold.is_(None), Item.hidden.is_(None), open_place)
    needs: dict[int, list[Need]] = {}
    for need in session.scalars(select(Need).where(Need.item_id.in_(waiting))):
        needs.setdefault(need.item_id, []).append(need)
    met = _met(session, waiting)
    workers = select(Person.id).where(Person.disabled.is_(None), Person.role != "machine")
    people, can = set(session.scalars(workers)), abilities(session)
    return [
        item
        for item in session.scalars(waiting.order_by(Item.id))
        if not any(_has_all(person, needs.get(item, ()), can) for person in people - met.get(item, set()))
    ]


def _met(session: Session, items: Select[int]) -> dict[int, set[int]]:
    """Who has done, skipped, lost or written something of these tasks, and is not given them."""
    refused = and_(Label.kind.in_(("skip", "rejected")), is_newest())
    found: dict[int, set[int]] = {}
    for query in (
        select(Slot.item_id, Slot.person_id).where(Slot.item_id.in_(items)),
        select(Label.item_id, Label.person_id).where(refused, Label.item_id.in_(items)),
        select(Response.item_id, Response.author_id).where(Response.item_id.in_(items)),
    ):
        for item, person in session.execute(query):
            if person is not None:
                found.setdefault(item, set()).add(person)
    return found


def _has_all(person: int, needs: Iterable[Need], can: Mapping[int, Mapping[str, list[str]]]) -> bool:
    """As `fits` says."""
    named = [need.value for need in needs if need.kind == "person"]
    others = [need for need in needs if need.kind != "person"]
    known = can.get(person, {})
    return (not named or str(person) in named) and all(n.value in known.get(n.kind, ()) for n in others)


def _exists(table: Any, *conditions: ColumnElement[bool]) -> Exists:
    """Of one table; all others are those of the queries around it, however far out."""
    return exists().where(*conditions).correlate_except(table)


def needs_of(row: Mapping[str, Any]) -> list[Need]:
    """What a task asks for; people still by name, which `name_people` makes numbers. Raises RecordError."""
    needs = []
    for key, kind in (("people", "person"), ("skills", "skill")):
        given = row.get(key) or []
        if not isinstance(given, list) or not all(isinstance(value, str) for value in given):
            raise RecordError(key, "must be a list of texts")
        needs += [Need(kind=kind, value=value) for value in _values(key, given, kind == "skill")]
    language = row.get("language")
    if language is not None and not isinstance(language, str):
        raise RecordError("language", "must be text")
    return needs + [
        Need(kind="language", value=value) for value in _values("language", [language or ""], True)
    ]


def name_people(needs: Iterable[Need], names: Mapping[str, int]) -> None:
    """Put people's numbers in the place of their names. Raises RecordError where nobody is called so."""
    for need in needs:
        if need.kind == "person":
            if need.value not in names:
                raise RecordError("people", f"nobody is called {need.value[:40]!r}")
            need.value = str(names[need.value])


def ask_for(session: Session, items: Iterable[int], needs: Iterable[Need]) -> None:
    """What these tasks ask for from now on, in place of what they asked for."""
    items, needs = list(items), list(needs)
    session.execute(delete(Need).where(Need.item_id.in_(items)))
    for item in items:
        session.add_all(Need(item_id=item, kind=need.kind, value=need.value) for need in needs)


def abilities(session: Session) -> dict[int, dict[str, list[str]]]:
    """Everybody's skills and languages."""
    found: dict[int, dict[str, list[str]]] = {}
    for row in session.scalars(select(Ability).order_by(Ability.person_id, Ability.kind, Ability.value)):
        found.setdefault(row.person_id, {}).setdefault(row.kind, []).append(row.value)
    return found


def set_abilities(session: Session, person: int, skills: str, languages: str) -> None:
    """What a person can, as comma-separated texts. Raises UserError."""
    session.execute(delete(Ability).where(Ability.person_id == person))
    for kind, given in (("skill", skills), ("language", languages)):
        for value in listed(given):
            session.add(Ability(person_id=person, kind=kind, value=value))


def listed(text: str, lower: bool = True) -> list[str]:
    """The values of a comma-separated text, each once. Raises UserError."""
    try:
        return _values("a list", text.split(","), lower)
    except RecordError as error:
        raise UserError(
            gettext("Skills and languages: at most %(most)s, of at most 80 characters each.", most=_MOST)
        ) from error


def _values(key: str, given: list[str], lower: bool) -> list[str]:
    found = [" ".join((value.lower() if lower else value).split()) for value in given]
    found = list(dict.fromkeys(value for value in found if value))
    if len(found) > _MOST or any(len(value) > 80 or not storable(value) for value in found):
        raise RecordError(key, f"at most {_MOST} texts of at most 80 characters each")
    return found
