"""Signing in and out: one-time links, invitations, passwords."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.language import N_, gettext, languages
from labeling.store.audit import note
from labeling.store.models import Person, Token, now
from labeling.store.people import (
    add_person,
    check_password,
    end_links,
    end_sessions,
    find_token,
    hashed_password,
    use_up,
)
from labeling.web.config import Config, config_of
from labeling.web.language import remember
from labeling.web.pages import open_page, page
from labeling.web.security import (
    COOKIE,
    Form,
    SignedIn,
    SignedInRoute,
    Visitor,
    client_of,
    known_browser,
    session_secret,
    start_session,
    visitor,
)
from labeling.web.throttle import Door, Throttle

router = APIRouter(include_in_schema=False)
own = APIRouter(include_in_schema=False, route_class=SignedInRoute)  # for those who are signed in
_BACK = re.compile(r"/(?:signin|join)(?:/[\w-]+)?")
_JOIN = ("invite", "first")
_SIGNIN = ("signin", "reset")
_OLD_LINK = N_("This link has been used or has expired. Ask for a new one.")


def _refuse_for(seconds: float) -> HTTPException:
    whole = str(int(seconds) + 1)
    return HTTPException(
        429, gettext("Too many attempts: wait %(seconds)s seconds.", seconds=whole), {"Retry-After": whole}
    )


@router.get("/signin")
def signin_page(request: Request) -> Response:
    """The form for name and password."""
    return open_page(request, "signin.html", error=None)


@router.post("/signin")
async def signin(request: Request, given: Form) -> Response:
    """Sign in by name and password."""
    config, name = config_of(request), given.get("name", "")[:200]
    door: Door = request.app.state.door
    device = known_browser(config, request, name)
    if (wait := door.enter(name, client_of(request), device)) > 0:
        raise _refuse_for(wait)
    await asyncio.sleep(door.delay(device))
    check = partial(_checked, config, name, given.get("password", "")[:2000])
    response = await asyncio.get_running_loop().run_in_executor(request.app.state.hashing, check)
    if response is None:
        return open_page(request, "signin.html", 401, error=gettext("Wrong name or password."))
    door.succeeded(name, client_of(request), device)
    return response


def _checked(config: Config, name: str, password: str) -> Response | None:
    with config.store.read() as session:  # Argon2 takes its time: nobody's labels wait for it
        person = check_password(session, name, password)
    if person is None:
        return None
    with config.store.write() as session:
        return start_session(config, session, person)


@router.get("/signin/{secret}")
def link_page(request: Request, secret: str) -> Response:
    """A button, not a sign-in: programs that preview links must not use them up."""
    _open_link(request, _SIGNIN, secret)
    return open_page(request, "link.html", secret=secret)


@router.post("/signin/{secret}")
def link(request: Request, secret: str) -> Response:
    """Sign in by a link, which is used up."""
    config = config_of(request)
    kind = _open_link(request, _SIGNIN, secret).kind
    with config.store.write() as session:
        token = find_token(session, kind, secret)
        if token is None or token.person is None or not use_up(session, token):
            raise HTTPException(410, gettext(_OLD_LINK))
        return start_session(config, session, token.person)


@router.get("/join/{secret}")
def join_page(request: Request, secret: str) -> Response:
    """The form for a new account, behind an invitation."""
    token = _open_link(request, _JOIN, secret)
    return open_page(request, "join.html", secret=secret, role=token.role, error=None, name="")


@router.post("/join/{secret}")
def join(request: Request, secret: str, given: Form) -> Response:
    """Make the account, use up the invitation, and sign in."""
    config = config_of(request)
    token = _open_link(request, _JOIN, secret)
    try:
        if not given.get("password"):
            raise UserError(gettext("Choose a password."))
        hashed = hashed_password(given["password"])
        with config.store.write() as session:
            person = add_person(session, given.get("name", ""), token.role or "labeler")
            person.password = hashed
            note(session, person, "joined", "person", person.id, role=person.role)
            if not use_up(session, token):
                raise HTTPException(410, gettext(_OLD_LINK))
            if token.kind == "first":
                end_links(session)
            return start_session(config, session, person)
    except UserError as error:
        name = given.get("name", "")
        return open_page(
            request, "join.html", 409, secret=secret, role=token.role, name=name, error=str(error)
        )


@router.post("/language")
def choose(request: Request, given: Form) -> Response:
    """Keep the language that somebody chose before they signed in."""
    back = given.get("back", "")
    response = RedirectResponse(back if _BACK.fullmatch(back) else "/signin", 303)
    remember(response, given.get("language", ""), config_of(request).secure)
    return response


@own.post("/signout")
def signout(request: Request, who: Annotated[Visitor, Depends(visitor)]) -> Response:
    """End the session."""
    with who.config.store.write() as session:
        secret = session_secret(who.config, request)
        token = find_token(session, "session", secret) if secret else None
        if token is not None:
            token.ended = now()
    response = RedirectResponse("/signin", 303)
    response.delete_cookie(COOKIE, path="/")
    return response


@own.get("/account")
def account_page(who: SignedIn) -> Response:
    """The form for the own password."""
    return _account(who)


@own.post("/account")
def account(given: Form, who: SignedIn) -> Response:
    """Set or change the own password, which signs out everywhere else; one that is there must be given."""
    door: Door = who.request.app.state.door
    place = (who.person.name, client_of(who.request), f"session {who.csrf}")
    config, password = who.config, given.get("password", "")
    try:
        with config.store.read() as session:  # as at the sign-in
            person = session.get_one(Person, who.person.id)
            if person.password:
                if (wait := door.enter(*place)) > 0:
                    raise _refuse_for(wait)
                if not check_password(session, person.name, given.get("old", "")):
                    raise UserError(gettext("The current password is wrong."))
                door.succeeded(*place)
        hashed = hashed_password(password)
    except UserError as error:
        return _account(who, 409, error=str(error))
    with config.store.write() as session:
        session.get_one(Person, who.person.id).password = hashed
        end_sessions(session, who.person, session_secret(config, who.request))
    return _account(who, done=True)


def _account(who: Visitor, status: int = 200, error: str | None = None, done: bool = False) -> Response:
    return page(who, "account.html", status, error=error, done=done, chosen=who.person.language)


@own.post("/account/language")
def choose_language(given: Form, who: SignedIn) -> Response:
    """The language of the interface: with the account, and in this browser for the page to sign in."""
    code = given.get("language", "")
    chosen = code if code in languages() else None
    with who.config.store.write() as session:
        session.get_one(Person, who.person.id).language = chosen
    response = RedirectResponse("/account", 303)
    remember(response, code, who.config.secure)
    return response


@own.get("/session")
def session_state(who: Annotated[Visitor, Depends(visitor)]) -> dict[str, object]:
    """For a page that was open while somebody signed in again."""
    return {"person": who.person.id, "csrf": who.csrf}


def _open_link(request: Request, kinds: tuple[str, ...], secret: str) -> Token:
    """The token of a link. Wrong ones are slowed down, and a right one is never kept waiting for them."""
    with config_of(request).store.read() as session:
        found = (find_token(session, kind, secret) for kind in kinds)
        token = next((token for token in found if token is not None), None)
    if token is None:
        wrong: Throttle = request.app.state.wrong_links
        if (wait := wrong.wait(client_of(request))) > 0:
            raise _refuse_for(wait)
        wrong.failed(client_of(request))
        raise HTTPException(410, gettext(_OLD_LINK))
    return token
