"""Long lists by pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of many."""

    rows: Sequence[Row]
    number: int
    pages: int
    total: int


def paged(
    session: Session, query: Select[*tuple[Any, ...]], number: int, size: int, order: Sequence[Any]
) -> Page[Any]:
    """One page of a query's rows; a number that is too high gives the last one."""
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    pages = max(1, -(-total // size))
    number = min(max(number, 1), pages)
    rows = session.execute(query.order_by(*order).limit(size).offset((number - 1) * size)).all()
    return Page([tuple(row) for row in rows], number, pages, total)
