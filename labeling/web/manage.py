"""What an admin does with people: invite them, give them roles, close accounts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, HTTPException
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.language import N_, gettext
from labeling.store import accounts, calibration
from labeling.store.assignment import abilities as all_abilities
from labeling.store.assignment import set_abilities
from labeling.store.audit import note
from labeling.store.models import Label, Person, standing
from labeling.store.names import tidy
from labeling.store.people import ROLES, add_person, disable, new_token
from labeling.web.pages import page
from labeling.web.security import Admin, Form, SignedInRoute, Visitor
from labeling.web.work import ItemId

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)
INVITE_LASTS = timedelta(days=7)
_STILL_READ = N_(
    "The person is erased. Something was reading the database, so bytes of the name may stay in its log, the "
    "file that ends in -wal, until the app is stopped."
)


@router.get("/people")
def people(who: Admin) -> Response:
    """Everybody's account, and the form to invite more."""
    return _people(who)


@router.post("/people/invite")
def invite(given: Form, who: Admin) -> Response:
    """A link that one person can use once; for a machine, a token that is shown once."""
    role = given.get("role", "")
    if role not in ROLES:
        raise HTTPException(422, gettext("There is no such role."))
    with who.config.store.write() as session:
        if role == "machine":
            machine = add_person(session, given.get("name", ""), role)
            shown = {"token": new_token(session, "api", person=machine)}
            note(session, who.person, "made a machine's account", "person", machine.id)
        else:
            secret = new_token(session, "invite", role=role, lasts=INVITE_LASTS)
            shown = {"link": f"{who.config.address}/join/{secret}", "role": role}
            note(session, who.person, "invited somebody", "person", role=role)
    return _people(who, **shown)


@router.post("/people/{person}/close")
def close(person: ItemId, who: Admin) -> Response:
    """Close an account; what the person did stays."""
    if person == who.person.id:
        raise UserError(gettext("This is your own account: another admin has to close it."))
    with who.config.store.write() as session:
        found = session.get(Person, person)
        if found is None:
            raise HTTPException(404, gettext("There is no such person."))
        disable(session, found)
        note(session, who.person, "closed an account", "person", person)
    return RedirectResponse("/people", 303)


@router.post("/people/{person}/role")
def change_role(person: ItemId, given: Form, who: Admin) -> Response:
    """Give a person another role."""
    role = given.get("role", "")
    if person == who.person.id or role not in ROLES[:3]:
        raise UserError(
            gettext("Another admin has to change your own role; a role is admin, reviewer or labeler.")
        )
    with who.config.store.write() as session:
        found = session.get(Person, person)
        if found is None or found.role == "machine":
            raise HTTPException(404, gettext("There is no such person."))
        found.role = role
        note(session, who.person, "changed a role", "person", person, role=role)
    return RedirectResponse("/people", 303)


@router.get("/people/{person}")
def one_person(person: ItemId, who: Admin) -> Response:
    """One person's account, and what is done to it."""
    return _person(who, person)


@router.post("/people/{person}/abilities")
def abilities(person: ItemId, given: Form, who: Admin) -> Response:
    """What a person knows: the tasks that ask for it come to them."""
    with who.config.store.write() as session:
        _known(session, person)
        set_abilities(session, person, given.get("skills", ""), given.get("languages", ""))
        note(session, who.person, "changed skills and languages", "person", person)
    return RedirectResponse(f"/people/{person}", 303)


@router.post("/people/{person}/account")
def account(person: ItemId, given: Form, who: Admin) -> Response:
    """Open again, rename, make a link to reset the password, make a new token, or erase."""
    shown: dict[str, Any] = {}
    try:
        with who.config.store.write() as session:
            found, what = _known(session, person), given.get("what", "")
            if what == "reopen":
                accounts.reopen_account(session, who.person, found)
            elif what == "rename":
                accounts.rename(session, who.person, found, given.get("name", ""))
            elif what == "reset" and person != who.person.id:
                shown["link"] = f"{who.config.address}/signin/{accounts.reset(session, who.person, found)}"
            elif what == "token":
                shown["token"] = accounts.renew_token(session, who.person, found)
            elif what == "erase":
                if tidy(given.get("name", "")) != found.name:
                    raise UserError(gettext("To erase a person, write the name as it stands above."))
                accounts.erase(session, who.person, found)
            else:
                raise UserError(gettext("Your own password is set under your name, above."))
    except UserError as error:
        return _person(who, person, 409, error=str(error))
    if what == "erase" and not who.config.store.overwrite_freed():
        shown["error"] = gettext(_STILL_READ)
    return _person(who, person, **shown) if shown else RedirectResponse(f"/people/{person}", 303)


@router.post("/people/{person}/calibration")
def calibrate(person: ItemId, given: Form, who: Admin) -> Response:
    """Let a person try again, or work without passing."""
    try:
        with who.config.store.write() as session:
            calibration.decide(session, who.person, _known(session, person), given.get("said", ""))
    except UserError as error:
        return _person(who, person, 409, error=str(error))
    return RedirectResponse(f"/people/{person}", 303)


def _known(session: Session, person: int) -> Person:
    found = session.get(Person, person)
    if found is None:
        raise HTTPException(404, gettext("There is no such person."))
    return found


def _person(who: Visitor, person: int, status: int = 200, **shown: Any) -> Response:
    with who.config.store.read() as session:
        found = _known(session, person)
        can = all_abilities(session).get(person, {})
        stage = calibration.stage(session, found, who.config.rules.calibration)
    shown = {"error": None, "link": None, "token": None, **shown}
    shown |= {"can": can, "stage": stage, "standard": who.config.rules.calibration}
    return page(who, "person.html", status, person=found, erased=accounts.is_erased(found), **shown)


def _people(who: Visitor, **shown: Any) -> Response:
    with who.config.store.read() as session:
        counts = select(Label.person_id, func.count(Label.id)).where(standing()).group_by(Label.person_id)
        answers = dict(session.execute(counts).all())
        found = session.scalars(select(Person).order_by(Person.id))
        rows = [(person, answers.get(person.id, 0)) for person in found]
        calibrated = calibration.results(session)
    shown["calibrated"] = calibrated if who.config.settings.calibration else None
    return page(who, "people.html", rows=rows, **{"link": None, "token": None, "role": None, **shown})
