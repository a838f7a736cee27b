"""Reading a labeling database from outside the app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select

from align.errors import UserError
from labeling.store.engine import Store
from labeling.store.models import Person
from labeling.store.records import ALL, Filters, Kind, records


def read_records(address: str, kind: Kind, filters: Filters = ALL) -> list[dict[str, Any]]:
    """The training records of a database; raises UserError where it or a labeler is not there."""
    if "://" not in address and not Path(address).is_file():
        raise UserError("no such labeling database: `align label` makes it")
    store = Store(address)
    try:
        with store.read() as session:
            unknown = sorted(set(filters.labelers) - set(session.scalars(select(Person.name))))
            if unknown:
                raise UserError(f"labelers: nobody is called {', '.join(unknown)}")
            return list(records(session, kind, filters))
    finally:
        store.close()
