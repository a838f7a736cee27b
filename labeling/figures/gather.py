"""What the figures need of the database, in a few SELECTs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import Text, and_, case, cast, func, select
from sqlalchemy.orm import Session, aliased

from labeling.answers import ORDERING, ranks_of
from labeling.store.models import TAKEN_BACK, Item, Label, Person, Response, Slot, now, standing
from labeling.store.suggestions import by_people

_ROWS = 1000  # read at a time


@dataclass(frozen=True)
class AnsweredItem:
    """An item with answers; `prompt` numbers the prompts, `origins` are the policies of a comparison.

    `lengths` are its responses', in characters.
    """

    kind: str
    gold: list[int | None] | None
    prompt: int
    origins: tuple[str | None, ...]
    lengths: tuple[int, ...]


class StandingAnswer(NamedTuple):
    """A label that stands; `ranks`, `quality`, `choice` and `shown` (an order) where its kind has them."""

    task: int
    person: int
    kind: str
    seconds: float | None
    adjudicates: bool
    day: date
    ranks: tuple[int | None, ...] | None = None
    quality: tuple[int | None, ...] = ()
    choice: str | None = None
    shown: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Material:
    """All that the figures are computed from."""

    people: dict[int, tuple[str, str]]  # name and role
    tasks: dict[int, AnsweredItem]
    prompts: int
    answers: list[StandingAnswer]
    withdrawn: dict[int, int]  # how many of their answers each person changed or took back
    places: dict[tuple[str, str], int]  # by kind and state
    kinds: dict[str, int]  # tasks, gold ones left out
    gold: int


def gather(session: Session) -> Material:
    """Everything that stands, of everybody; machines' own labels are left out."""
    people = {
        id: (name, role)
        for id, name, role in session.execute(
            select(Person.id, Person.name, Person.role).where(Person.role != "machine").order_by(Person.id)
        )
    }
    answers = [answer for answer in standing_answers(session) if answer.person in people]
    tasks, prompts = _tasks(session)
    kinds = select(Item.kind, func.count()).where(Item.gold.is_(None)).group_by(Item.kind)
    gold = select(func.count()).select_from(Item).where(Item.gold.is_not(None))
    return Material(
        people=people,
        tasks=tasks,
        prompts=prompts,
        answers=answers,
        withdrawn=_taken_back(session),
        places=_places(session),
        kinds=dict(session.execute(kinds).all()),
        gold=session.scalar(gold) or 0,
    )


def _taken_back(session: Session) -> dict[int, int]:
    """How many of their answers people changed or took back; labels of the kind `withdrawn` are old ones."""
    before = aliased(Label)
    back = select(Label.person_id, func.count()).join(before, before.id == Label.replaces)
    back = back.where(before.kind.not_in(TAKEN_BACK), Label.kind != "rejected")  # that is a reviewer's doing
    back = back.where(Label.adjudicates.is_(False), by_people())
    return dict(session.execute(back.group_by(Label.person_id)).all())


def standing_answers(session: Session, person: int | None = None) -> list[StandingAnswer]:
    """The answers that stand; of one person, where `person` says whose, without what they say."""
    content = case((Label.kind.in_(ORDERING), Label.content), else_=None)
    columns = (Label.item_id, Label.person_id, Label.kind, Label.seconds, Label.adjudicates, Label.created)
    said = [content, Label.shown_order] if person is None else []
    query = select(*columns, *said).where(standing()).order_by(Label.id)
    if person is not None:
        query = query.where(Label.person_id == person)
    return [_answer(*row) for row in session.execute(query.execution_options(yield_per=_ROWS))]


def _answer(
    task: int,
    person: int,
    kind: str,
    seconds: float | None,
    adjudicates: bool,
    created: datetime,
    content: dict[str, Any] | None = None,
    shown: list[int] | None = None,
) -> StandingAnswer:
    """Keeps of the content only what is counted: labels come by the thousand."""
    plain = StandingAnswer(task, person, kind, seconds, adjudicates, created.date())
    if content is None:
        return plain
    ranks = ranks_of(kind, content)
    return plain._replace(
        ranks=tuple(ranks) if ranks is not None else None,
        quality=tuple(content.get("quality", ())),
        choice=content.get("choice"),
        shown=tuple(shown) if shown else None,
    )


def _tasks(session: Session) -> tuple[dict[int, AnsweredItem], int]:
    """All items that somebody answered, and how many prompts they have."""
    answered = select(Label.item_id)
    responses = select(Response.item_id, Response.origin, func.length(Response.text))
    responses = responses.where(Response.item_id.in_(answered))
    origins: dict[int, list[str | None]] = {}
    lengths: dict[int, list[int]] = {}
    for item, origin, length in session.execute(responses.order_by(Response.item_id, Response.position)):
        origins.setdefault(item, []).append(origin)
        lengths.setdefault(item, []).append(length)
    query = select(Item.id, Item.kind, Item.gold, cast(Item.prompt, Text))
    query = query.where(Item.id.in_(answered)).order_by(Item.id)
    tasks: dict[int, AnsweredItem] = {}
    prompts: dict[str, int] = {}
    for item, kind, gold, prompt in session.execute(query):
        number = prompts.setdefault(prompt, len(prompts))
        named = origins.get(item, ()) if kind == "compare" else ()
        tasks[item] = AnsweredItem(kind, gold, number, tuple(named), tuple(lengths.get(item, ())))
    return tasks, len(prompts)


def _places(session: Session) -> dict[tuple[str, str], int]:
    expired = and_(Slot.state == "leased", Slot.leased_until < now())
    state = case((expired, "free"), (Slot.state == "reopened", "done"), else_=Slot.state).label("state")
    query = select(Item.kind, state, Slot.id).join(Slot.item).where(Item.gold.is_(None))
    inner = query.subquery()
    counted = select(inner.c.kind, inner.c.state, func.count()).group_by(inner.c.kind, inner.c.state)
    return {(kind, state): count for kind, state, count in session.execute(counted)}
