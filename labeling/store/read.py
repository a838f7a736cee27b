"""Reading a labeling database from outside the app."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from align.errors import UserError
from labeling.store.engine import Store
from labeling.store.models import Person
from labeling.store.records import Kind, records


def read_records(
    address: str, kind: Kind, guideline: str | None = None, labelers: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The training records of a database; raises UserError where it or a labeler is not there."""
    if "://" not in address and not Path(address).is_file():
        raise UserError("no such labeling database: `align label` makes it")
    store = Store(address)
    try:
        with store.read() as session:
            unknown = sorted(set(labelers) - set(session.scalars(select(Person.name))))
            if unknown:
                raise UserError(f"labelers: nobody is called {', '.join(unknown)}")
            return list(records(session, kind, guideline, labelers))
    finally:
        store.close()
