"""What an admin does: import tasks, invite people, close accounts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, HTTPException, UploadFile
from sqlalchemy import func, select
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.store.models import Item, Label, Person, Slot, standing
from labeling.store.people import ROLES, add_person, disable, new_token
from labeling.web.pages import page
from labeling.web.security import Admin, Form, SignedInRoute, Visitor
from labeling.web.uploads import Job, Uploads
from labeling.web.work import ItemId

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
INVITE_LASTS = timedelta(days=7)
_SHORT = 3.0  # seconds: an import that takes longer is watched on its page


@router.get("/tasks")
def tasks(who: Admin) -> Response:
    """How far the queue is, the newest tasks, and the form to import more."""
    job: Job | None = who.request.app.state.uploads.last
    if job is None:
        return _tasks(who)
    if job.ended.is_set():
        return _tasks(who, error=job.error, said=job.said)
    return _tasks(who, running=str(job))


@router.post("/tasks")
def import_tasks(file: UploadFile, who: Admin) -> Response:
    """Add the tasks of a file; nothing where a row is wrong. A long one goes on beside the requests."""
    uploads: Uploads = who.request.app.state.uploads
    try:
        job = uploads.begin(file.file, file.filename or "file", who.config.settings.overlap, who.person)
    except UserError as error:
        return _tasks(who, 409, error=str(error))
    if not job.ended.wait(_SHORT):
        return RedirectResponse("/tasks", 303)
    return _tasks(who, 422 if job.error else 200, error=job.error, said=job.said)


def _tasks(
    who: Visitor,
    status: int = 200,
    error: str | None = None,
    said: str | None = None,
    running: str | None = None,
) -> Response:
    with who.config.store.read() as session:
        states = select(Slot.state, func.count()).group_by(Slot.state)
        slots = dict(session.execute(states).all())
        kinds = session.execute(select(Item.kind, func.count()).group_by(Item.kind).order_by(Item.kind)).all()
        gold = session.scalar(select(func.count()).select_from(Item).where(Item.gold.is_not(None)))
        newest = session.scalars(select(Item).order_by(Item.id.desc()).limit(50)).all()
        values: dict[str, Any] = {"slots": slots, "kinds": kinds, "gold": gold, "newest": newest}
        values["limit"] = who.config.settings.upload_limit
        return page(who, "tasks.html", status, error=error, said=said, running=running, **values)


@router.get("/people")
def people(who: Admin) -> Response:
    """Everybody's account, and the form to invite more."""
    return _people(who)


@router.post("/people/invite")
def invite(given: Form, who: Admin) -> Response:
    """A link that one person can use once; for a machine, a token that is shown once."""
    role = given.get("role", "")
    if role not in ROLES:
        raise HTTPException(422, "There is no such role.")
    with who.config.store.write() as session:
        if role == "machine":
            machine = add_person(session, given.get("name", ""), role)
            shown = {"token": new_token(session, "api", person=machine)}
        else:
            secret = new_token(session, "invite", role=role, lasts=INVITE_LASTS)
            shown = {"link": f"{who.config.address}/join/{secret}", "role": role}
    return _people(who, **shown)


@router.post("/people/{person}/close")
def close(person: ItemId, who: Admin) -> Response:
    """Close an account; what the person did stays."""
    if person == who.person.id:
        raise UserError("This is your own account: another admin has to close it.")
    with who.config.store.write() as session:
        found = session.get(Person, person)
        if found is None:
            raise HTTPException(404, "There is no such person.")
        disable(session, found)
    return RedirectResponse("/people", 303)


@router.post("/people/{person}/role")
def change_role(person: ItemId, given: Form, who: Admin) -> Response:
    """Give a person another role."""
    role = given.get("role", "")
    if person == who.person.id or role not in ROLES[:3]:
        raise UserError("Another admin has to change your own role; a role is admin, reviewer or labeler.")
    with who.config.store.write() as session:
        found = session.get(Person, person)
        if found is None or found.role == "machine":
            raise HTTPException(404, "There is no such person.")
        found.role = role
    return RedirectResponse("/people", 303)


def _people(who: Visitor, **shown: Any) -> Response:
    with who.config.store.read() as session:
        counts = select(Label.person_id, func.count(Label.id)).where(standing()).group_by(Label.person_id)
        answers = dict(session.execute(counts).all())
        found = session.scalars(select(Person).order_by(Person.id))
        rows = [(person, answers.get(person.id, 0)) for person in found]
    return page(who, "people.html", rows=rows, **{"link": None, "token": None, "role": None, **shown})
