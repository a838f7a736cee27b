"""The guideline: read by all, with what changed; written by admins, with its history."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.language import gettext
from labeling.store import guidelines as store
from labeling.web.pages import page
from labeling.web.security import Admin, Form, SignedIn, SignedInRoute, Visitor

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
Hash = Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]


@router.get("/guideline")
def guideline(who: SignedIn) -> Response:
    """The guideline as it is now."""
    text = _text(who)
    with who.config.store.read() as session:
        seen = store.last_seen(session, who.person)
    changed = seen is not None and seen != store.digest(text)
    shown: dict[str, Any] = {"seen": seen if changed else None, "now": store.digest(text)}
    problem = who.config.guideline_problem() if who.is_admin else None
    return page(who, "guideline.html", text=text, problem=problem, **shown)


@router.get("/guideline/changes")
def changes(who: SignedIn, old: Hash, new: Hash | None = None) -> Response:
    """What changed between two versions, the second one being the current one where none is named."""
    text = _text(who)
    with who.config.store.read() as session:
        before = store.text_of(session, old)
        after = store.text_of(session, new) if new is not None else text
    if before is None or after is None:
        raise HTTPException(404, gettext("There is no such version of the guideline."))
    return page(who, "guideline_changes.html", lines=list(store.differences(before, after)))


@router.get("/guideline/history")
def history(who: SignedIn) -> Response:
    """All versions; who wrote them is told to those who review."""
    with who.config.store.write() as session:
        who.config.guideline(session)
        found = store.versions(session)
    return page(who, "guideline_history.html", versions=found)


@router.get("/guideline/edit")
def edit_page(who: Admin) -> Response:
    """The form to change it."""
    text = _text(who)
    return _form(who, text, store.digest(text))


@router.post("/guideline/edit")
def edit(given: Form, who: Admin) -> Response:
    """Show how a text would look, or make it the guideline; 409 where another version holds by now."""
    text, base, remark = given.get("text", ""), given.get("base", ""), given.get("remark", "")
    if given.get("what") == "preview":
        return _form(who, text, base, remark, preview=True)
    try:
        with who.config.store.write() as session:
            store.edit(session, who.person, text, remark, base, who.config.guideline(session))
    except store.Edited as error:
        now = store.digest(_text(who))
        return _form(who, text, now, remark, error=str(error), old=base, status=409)
    except UserError as error:
        return _form(who, text, base, remark, error=str(error), status=422)
    return RedirectResponse("/guideline", 303)


def _text(who: Visitor) -> str:
    try:
        return who.config.guideline()
    except UserError as error:
        raise HTTPException(500, str(error)) from error


def _form(
    who: Visitor,
    text: str,
    base: str,
    remark: str = "",
    *,
    preview: bool = False,
    error: str = "",
    old: str = "",
    status: int = 200,
) -> Response:
    values = {"text": text, "base": base, "remark": remark, "preview": preview, "error": error, "old": old}
    values["file"] = who.config.settings.guideline
    return page(who, "guideline_edit.html", status, most=store.MAX_TEXT, **values)
