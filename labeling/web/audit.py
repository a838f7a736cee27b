"""The log of what leads and reviewers did: a page, and the whole as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from labeling.store import audit as store
from labeling.store import sheets
from labeling.web.pages import page
from labeling.web.review import Number
from labeling.web.security import Admin, SignedInRoute

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
_COLUMNS = ["id", "when", "who", "did", "about", "number", "detail"]


@router.get("/audit")
def log(
    who: Admin, about: Literal["label", "task", "person", "guideline", "records", ""] = "", number: Number = 1
) -> Response:
    """Who did what, newest first."""
    with who.config.store.read() as session:
        found = store.entries(session, about or None, number)
    return page(who, "audit.html", found=found, about=about, abouts=store.ABOUT)


@router.get("/audit.{form}")
def export(form: Literal["csv", "jsonl"], who: Admin) -> Response:
    """The whole log as a file."""

    def lines() -> Iterator[str]:
        with who.config.store.read() as session:
            rows = store.all_entries(session)
            if form == "csv":
                yield from sheets.lines(_COLUMNS, rows)
                return
            for row in rows:
                yield json.dumps(row, ensure_ascii=False) + "\n"

    media = "application/jsonl" if form == "jsonl" else "text/csv; charset=utf-8"
    name = {"Content-Disposition": f'attachment; filename="log.{form}"'}
    return StreamingResponse(lines(), media_type=media, headers=name)
