"""Signing in and out: one-time links, invitations, passwords."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from align.errors import UserError
from labeling.store.models import Person, Token, now
from labeling.store.people import add_person, check_password, end_links, find_token, set_password, use_up
from labeling.web.config import config_of
from labeling.web.pages import open_page, page
from labeling.web.security import (
    COOKIE,
    Form,
    SignedIn,
    SignedInRoute,
    Throttle,
    Visitor,
    client_of,
    session_secret,
    start_session,
    visitor,
)

router = APIRouter(include_in_schema=False)
own = APIRouter(include_in_schema=False, route_class=SignedInRoute)  # for those who are signed in
_JOIN = ("invite", "first")
_OLD_LINK = "This link has been used or has expired. Ask for a new one."


def _slow_down(request: Request, *keys: str) -> tuple[Throttle, tuple[str, ...]]:
    throttle: Throttle = request.app.state.throttle
    found = (f"from {client_of(request)}", *keys)
    wait = throttle.wait(*found)
    if wait > 0:
        seconds = str(int(wait) + 1)
        raise HTTPException(429, f"Too many attempts: wait {seconds} seconds.", {"Retry-After": seconds})
    return throttle, found


@router.get("/signin")
def signin_page(request: Request) -> Response:
    """The form for name and password."""
    return open_page(request, "signin.html", error=None)


@router.post("/signin")
def signin(request: Request, given: Form) -> Response:
    """Sign in by name and password."""
    config, name = config_of(request), given.get("name", "")[:200]
    throttle, keys = _slow_down(request, f"as {name}")
    with config.store.read() as session:  # Argon2 takes its time: nobody's labels wait for it
        person = check_password(session, name, given.get("password", "")[:2000])
    if person is not None:
        throttle.succeeded(*keys)
        with config.store.write() as session:
            return start_session(config, session, person)
    throttle.failed(*keys)
    return open_page(request, "signin.html", 401, error="Wrong name or password.")


@router.get("/signin/{secret}")
def link_page(request: Request, secret: str) -> Response:
    """A button, not a sign-in: programs that preview links must not use them up."""
    _open_link(request, ("signin",), secret)
    return open_page(request, "link.html", secret=secret)


@router.post("/signin/{secret}")
def link(request: Request, secret: str) -> Response:
    """Sign in by a link, which is used up."""
    config = config_of(request)
    _open_link(request, ("signin",), secret)
    with config.store.write() as session:
        token = find_token(session, "signin", secret)
        if token is None or token.person is None or not use_up(session, token):
            raise HTTPException(410, _OLD_LINK)
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
        with config.store.write() as session:
            if not given.get("password"):
                raise UserError("Choose a password.")
            person = add_person(session, given.get("name", ""), token.role or "labeler", given["password"])
            if not use_up(session, token):
                raise HTTPException(410, _OLD_LINK)
            if token.kind == "first":
                end_links(session)
            return start_session(config, session, person)
    except UserError as error:
        name = given.get("name", "")
        return open_page(
            request, "join.html", 409, secret=secret, role=token.role, name=name, error=str(error)
        )


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
    return page(who, "account.html", error=None, done=False)


@own.post("/account")
def account(given: Form, who: SignedIn) -> Response:
    """Set or change the own password; one that is there must be given."""
    throttle, keys = _slow_down(who.request, f"as {who.person.name}")
    try:
        with who.config.store.write() as session:
            person = session.get_one(Person, who.person.id)
            if person.password and not check_password(session, person.name, given.get("old", "")):
                throttle.failed(*keys)
                raise UserError("The current password is wrong.")
            set_password(person, given.get("password", ""))
    except UserError as error:
        return page(who, "account.html", 409, error=str(error), done=False)
    return page(who, "account.html", error=None, done=True)


@own.get("/session")
def session_state(who: Annotated[Visitor, Depends(visitor)]) -> dict[str, object]:
    """For a page that was open while somebody signed in again."""
    return {"person": who.person.id, "csrf": who.csrf}


def _open_link(request: Request, kinds: tuple[str, ...], secret: str) -> Token:
    throttle, keys = _slow_down(request)
    with config_of(request).store.read() as session:
        found = (find_token(session, kind, secret) for kind in kinds)
        token = next((token for token in found if token is not None), None)
    if token is None:
        throttle.failed(*keys)
        raise HTTPException(410, _OLD_LINK)
    return token
