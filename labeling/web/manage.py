"""What an admin does: tasks in, people in and out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, UploadFile
from sqlalchemy import func, select
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.store.labels import standing
from labeling.store.models import Item, Label, Person, Slot
from labeling.store.people import ROLES, add_person, disable, new_token
from labeling.web.config import Config
from labeling.web.pages import page
from labeling.web.security import Visitor, form, form_needs, needs
from labeling.web.work import ItemId

router = APIRouter(include_in_schema=False)
_admin, _form_admin = Depends(needs("admin")), Depends(form_needs("admin"))
INVITE_LASTS = timedelta(days=7)


@router.get("/tasks")
def tasks(request: Request, who: Visitor = _admin) -> Response:
    return _tasks(request, who)


@router.post("/tasks")
def import_tasks(request: Request, file: UploadFile, who: Visitor = _form_admin) -> Response:
    """A file that its name tells the kind of; all or none."""
    config: Config = request.app.state.config
    from labeling.store.imports import (
        import_upload,  # what reads files is slow to load, and seldom needed here
    )

    try:
        name = file.filename or "file"
        added = import_upload(config.store, file.file, name, config.settings.overlap, who.person)
    except UserError as error:
        return _tasks(request, who, status=422, error=str(error))
    return _tasks(request, who, said=f"{added}.")


def _tasks(
    request: Request, who: Visitor, status: int = 200, error: str | None = None, said: str | None = None
) -> Response:
    config: Config = request.app.state.config
    with config.store.read() as session:
        states = select(Slot.state, func.count()).group_by(Slot.state)
        slots = dict(session.execute(states).all())
        kinds = session.execute(select(Item.kind, func.count()).group_by(Item.kind).order_by(Item.kind)).all()
        gold = session.scalar(select(func.count()).select_from(Item).where(Item.gold.is_not(None)))
        newest = session.scalars(select(Item).order_by(Item.id.desc()).limit(50)).all()
        values = {"slots": slots, "kinds": kinds, "gold": gold, "newest": newest}
        return page(request, "tasks.html", who, status, error=error, said=said, **values)


@router.get("/people")
def people(request: Request, who: Visitor = _admin) -> Response:
    return _people(request, who)


@router.post("/people/invite")
def invite(request: Request, given: dict[str, str] = Depends(form), who: Visitor = _form_admin) -> Response:
    """A link that one person can use once; for a machine, a token that is shown once."""
    config: Config = request.app.state.config
    role = given.get("role", "")
    if role not in ROLES:
        raise HTTPException(422, "There is no such role.")
    with config.store.write() as session:
        if role == "machine":
            machine = add_person(session, given.get("name", ""), role)
            shown = {"token": new_token(session, "api", person=machine)}
        else:
            secret = new_token(session, "invite", role=role, lasts=INVITE_LASTS)
            shown = {"link": f"{request.url.scheme}://{request.url.netloc}/join/{secret}", "role": role}
    return _people(request, who, **shown)


@router.post("/people/{person}/close")
def close(request: Request, person: ItemId, who: Visitor = _form_admin) -> Response:
    config: Config = request.app.state.config
    if person == who.person.id:
        raise UserError("This is your own account: another admin can close it.")
    with config.store.write() as session:
        found = session.get(Person, person)
        if found is None:
            raise HTTPException(404, "There is nobody with this number.")
        disable(session, found)
    return RedirectResponse("/people", 303)


@router.post("/people/{person}/role")
def change_role(
    request: Request,
    person: ItemId,
    given: dict[str, str] = Depends(form),
    who: Visitor = _form_admin,
) -> Response:
    config: Config = request.app.state.config
    role = given.get("role", "")
    if person == who.person.id or role not in ROLES[:3]:
        raise UserError("Another admin can change your own role; a role is admin, reviewer or labeler.")
    with config.store.write() as session:
        found = session.get(Person, person)
        if found is None or found.role == "machine":
            raise HTTPException(404, "There is no such person.")
        found.role = role
    return RedirectResponse("/people", 303)


def _people(request: Request, who: Visitor, **shown: Any) -> Response:
    config: Config = request.app.state.config
    with config.store.read() as session:
        counts = select(Label.person_id, func.count(Label.id)).where(standing()).group_by(Label.person_id)
        answers = dict(session.execute(counts).all())
        rows = [
            (person, answers.get(person.id, 0))
            for person in session.scalars(select(Person).order_by(Person.id))
        ]
    return page(
        request, "people.html", who, rows=rows, **{"link": None, "token": None, "role": None, **shown}
    )
