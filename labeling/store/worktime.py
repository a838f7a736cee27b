"""How long people worked, week by week, and what they answered faster than it can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, func, select
from sqlalchemy.orm import Session

from labeling.store.models import TAKEN_BACK, Item, Label, Person, now, standing
from labeling.store.pages import Page, paged
from labeling.store.review import LABELS_A_PAGE, SeenLabel, seen_label, seen_labels
from labeling.store.suggestions import by_people

LEFT_OPEN = (
    600.0  # seconds an answer takes at most, beside those of reading and writing: then nobody was there
)
SLOWEST = 5.0  # characters a second that anybody reads or writes
WEEKS = 12
_ROWS = 1000


@dataclass
class Week:
    """One person's week. `seconds`: without those of pages that were left open, of which there are `left`."""

    person: int
    name: str
    monday: date
    answers: int = 0
    skips: int = 0
    seconds: float = 0.0
    left: int = 0
    fast: int = 0
    untimed: int = 0


def weeks(session: Session, per_second: float, since: datetime | None = None) -> list[Week]:
    """Everybody's weeks (from Monday, UTC), newest first; answers that were changed later count too."""
    since = since or now() - timedelta(weeks=WEEKS)
    answer = (Label.kind, Label.created, Label.seconds, Item.characters, _written())
    query = select(Label.person_id, Person.name, *answer).join(Person, Person.id == Label.person_id)
    query = query.join(Item, Item.id == Label.item_id)
    query = query.where(Label.created >= since, Label.kind.not_in(TAKEN_BACK), by_people())
    found: dict[tuple[date, int], Week] = {}
    for person, name, kind, created, seconds, to_read, written in session.execute(
        query.execution_options(yield_per=_ROWS)
    ):
        monday = created.date() - timedelta(days=created.weekday())
        week = found.setdefault((monday, person), Week(person, name, monday))
        _count(week, kind, seconds, to_read, written, per_second)
    return sorted(found.values(), key=lambda week: (-week.monday.toordinal(), week.name))


def _count(
    week: Week, kind: str, seconds: float | None, to_read: int, written: int, per_second: float
) -> None:
    week.skips += kind == "skip"
    week.answers += kind != "skip"
    if seconds is None:
        week.untimed += 1
        return
    most = LEFT_OPEN + (to_read + written) / SLOWEST
    week.left += seconds > most
    week.seconds += min(seconds, most)
    week.fast += kind != "skip" and seconds * per_second < to_read


def too_fast(session: Session, per_second: float, number: int = 1) -> Page[SeenLabel]:
    """Answers that stand and came faster than their task can be read, newest first."""
    query = seen_labels().where(standing(), by_people(), Label.kind != "skip", Label.adjudicates.is_(False))
    query = query.where(Label.seconds.is_not(None), Label.seconds * per_second < Item.characters)
    page = paged(session, query, number, LABELS_A_PAGE, (Label.id.desc(),))
    return Page([seen_label(row) for row in page.rows], page.number, page.pages, page.total)


def lengths(session: Session, items: Sequence[int]) -> dict[int, int]:
    """How many characters there are to read in each of these tasks."""
    query = select(Item.id, Item.characters).where(Item.id.in_(items))
    return dict(session.execute(query).all())


def _written() -> ColumnElement[Any]:
    return func.length(cast(Label.content, Text))
