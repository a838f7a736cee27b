"""A lead's page of time and trust: hours by week, and answers faster than anybody reads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from labeling.store import worktime as store
from labeling.web.pages import page
from labeling.web.review import Number
from labeling.web.security import Admin, SignedInRoute

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)


@router.get("/people/time")
def time(who: Admin, number: Number = 1) -> Response:
    """Everybody's weeks, and what was answered too fast."""
    per_second = who.config.settings.fastest
    with who.config.store.read() as session:
        weeks = store.weeks(session, per_second)
        found = store.too_fast(session, per_second, number)
        lengths = store.lengths(session, [seen.item.id for seen in found.rows])
    shown: dict[str, Any] = {"per_second": per_second, "number_of": store.WEEKS}
    return page(who, "time.html", weeks=weeks, found=found, lengths=lengths, **shown)
