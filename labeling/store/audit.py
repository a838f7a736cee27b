"""Who did what, when: only ever added to, and without the names of people."""

from __future__ import annotations

from sqlalchemy.orm import Session

from labeling.store.models import Audit, Person


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
