"""Rankings that people made elsewhere, as labels of theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from align.errors import UserError
from align.records import Ranking
from align.values import RecordError
from labeling.answers import checked, ranks_alone
from labeling.store.labels import label_before, lock_all
from labeling.store.models import Guideline, Item, Label, Person, now
from labeling.store.names import good_name, tidy
from labeling.store.people import past_person
from labeling.store.queue import place_for
from labeling.store.summary import summarise


def keep_rankings(session: Session, said: Iterable[tuple[int, Ranking]]) -> int:
    """Rankings that people made elsewhere, as labels of theirs; how many are new.

    A person without an account gets one that is closed. Later rankings of a person replace earlier ones.
    """
    kept, said = 0, list(said)
    lock_all(session, {number for number, _ in said})
    people = {tidy(person.name): person for person in session.scalars(select(Person))}
    for number, ranking in said:
        item = session.get_one(Item, number)
        ordered = sum(rank is not None for rank in ranking.ranks) > 1
        if item.gold is not None or not ordered or ranking.labeler is None:
            continue
        name = good_name(ranking.labeler)
        if name not in people:
            people[name] = past_person(session, name) or _closed_account(session, name)
        if people[name].role != "machine":  # its labels come from here, exported: no person said so
            kept += _keep_ranking(session, item, people[name], ranking, name)
    summarise(session, {number for number, _ in said})
    return kept


def check_ranking(item: Item, ranking: Ranking) -> None:
    """Raises RecordError where `keep_rankings` could not keep it: for its labeler's name, or its ranks."""
    if item.gold is not None or sum(rank is not None for rank in ranking.ranks) < 2:
        return
    key = "labeler"
    try:
        good_name(ranking.labeler or "")
        key = "ranks"
        checked(item.kind, ranks_alone(ranking.ranks), len(ranking.ranks))
    except UserError as error:
        raise RecordError(key, str(error)) from error


def _closed_account(session: Session, name: str) -> Person:
    """For who ranked elsewhere and does not work here: as the file calls them, whomever that looks like."""
    person = Person(name=name, role="labeler", disabled=now())
    session.add(person)
    session.flush()
    return person


def _keep_ranking(session: Session, item: Item, person: Person, ranking: Ranking, name: str) -> bool:
    """Whether it is new; `name`: what the file calls the person."""
    same = hashlib.sha256(json.dumps([item.key, name, ranking.ranks]).encode()).hexdigest()[:32]
    if session.scalar(select(Label.id).where(Label.submission == same)) is not None:
        return False
    count, guideline = len(ranking.ranks), ranking.guideline
    label = Label(
        item_id=item.id,
        person_id=person.id,
        kind=item.kind,
        content=checked(item.kind, ranks_alone(ranking.ranks), count),
        guideline=guideline if guideline and session.get(Guideline, guideline) else None,
        shown_order=list(ranking.shown_order or range(count)),
        seconds=ranking.seconds,
        replaces=label_before(session, person, item, adjudicates=False),
        submission=same,
    )
    slot = place_for(session, person, item.id)
    slot.state, slot.leased_until = "done", None
    session.add(label)
    session.flush()
    return True
