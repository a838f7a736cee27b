"""Reading a labeling database from outside the app."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from align.errors import UserError
from labeling.store.engine import Store
from labeling.store.models import Person
from labeling.store.records import Filters, Kind, records


def read_records(address: str, kind: Kind, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The training records of a database: what align finds under the entry point `labels`.

    filters: the fields of `Filters`. Raises UserError where the database or a labeler is not there.
    """
    chosen = Filters(**filters)
    if "://" not in address and not Path(address).is_file():
        raise UserError("no such labeling database: `align label` makes it")
    store = Store(address)
    try:
        with store.read() as session:
            unknown = sorted(set(chosen.labelers) - set(session.scalars(select(Person.name))))
            if unknown:
                raise UserError(f"labelers: nobody is called {', '.join(unknown)}")
            return list(records(session, kind, chosen))
    finally:
        store.close()
