"""Who did what, when: only ever added to, and without the names of people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from labeling.store.models import Audit, Person
from labeling.store.pages import Page, paged

ENTRIES_A_PAGE = 100
ABOUT = ("label", "task", "person", "guideline", "records")  # what entries are about


def note(
    session: Session,
    by: Person | None,
    action: str,
    about: str,
    about_id: int | None = None,
    **detail: object,
) -> None:
    """Add an entry; `detail` holds no names of people, so that a name can be erased."""
    person = by.id if by is not None else None
    session.add(Audit(person_id=person, action=action, about=about, about_id=about_id, detail=detail))


def entries(session: Session, about: str | None = None, number: int = 1) -> Page[tuple[Audit, str | None]]:
    """The log, newest first, with the names that people have now."""
    return paged(session, _entries(about), number, ENTRIES_A_PAGE, (Audit.id.desc(),))


def all_entries(session: Session) -> Iterator[dict[str, Any]]:
    """The whole log, oldest first, as rows for a file."""
    rows = session.execute(_entries(None).order_by(Audit.id).execution_options(yield_per=1000))
    for entry, name in rows:
        yield {
            "id": entry.id,
            "when": entry.created.isoformat(),
            "who": name,
            "did": entry.action,
            "about": entry.about,
            "number": entry.about_id,
            "detail": entry.detail,
        }


def _entries(about: str | None) -> Select[*tuple[Any, ...]]:
    query = select(Audit, Person.name).outerjoin(Person, Person.id == Audit.person_id)
    return query.where(Audit.about == about) if about is not None else query
