"""Who asks, and whether the request is theirs: sessions, CSRF tokens, headers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.routing import APIRoute
from itsdangerous import BadSignature, Signer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from labeling.language import gettext, number
from labeling.store.models import Person
from labeling.store.people import find_token, new_token
from labeling.web.config import Config, config_of
from labeling.web.language import speak

COOKIE = "align_session"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without it browsers hide from us, too, which site sends a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
DEVICE = "align_browser"
_DEVICE_LASTS = timedelta(days=400)
_MOST_VALUES = 2_000_000  # of a body in JSON: each takes tens of bytes, however short it is written


@dataclass(frozen=True)
class Visitor:
    """Who sent a request; `csrf` is what their forms must send back, "" for a machine's token."""

    request: Request
    person: Person
    csrf: str

    @property
    def config(self) -> Config:
        """The running app's."""
        return config_of(self.request)

    @property
    def reviews(self) -> bool:
        """Whether they see others' answers and decide."""
        return self.person.role in ("admin", "reviewer")

    @property
    def is_admin(self) -> bool:
        """Whether they manage tasks and people."""
        return self.person.role == "admin"


class SignIn(Exception):
    """Nobody is signed in."""


def start_session(config: Config, session: Session, person: Person) -> Response:
    """Lead to the first page with a new session, whatever cookie was there before."""
    lasts = timedelta(days=config.settings.session_days)
    secret = new_token(session, "session", person=person, lasts=lasts)
    response = RedirectResponse("/", 303)
    _set_cookie(config, response, COOKIE, secret, "session", lasts)
    device = f"{secrets.token_hex(16)}-{_short(person.name)}"
    _set_cookie(config, response, DEVICE, device, "browser", _DEVICE_LASTS)
    return response


def known_browser(config: Config, request: Request, name: str) -> str | None:
    """What a browser is known by that a person of this name has signed in with before."""
    device = _signed(config, request, DEVICE, "browser")
    return device if device is not None and device.endswith(f"-{_short(name)}") else None


def _short(name: str) -> str:
    return hashlib.sha256(" ".join(name.split()).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def session_secret(config: Config, request: Request) -> str | None:
    """The session's secret in the cookie, if we signed it."""
    return _signed(config, request, COOKIE, "session")


def _signed(config: Config, request: Request, cookie: str, salt: str) -> str | None:
    try:
        return Signer(config.secret, salt=salt).unsign(request.cookies.get(cookie, "")).decode()
    except (BadSignature, UnicodeError):
        return None


def _set_cookie(
    config: Config, response: Response, cookie: str, value: str, salt: str, lasts: timedelta
) -> None:
    response.set_cookie(
        cookie,
        Signer(config.secret, salt=salt).sign(value).decode(),
        max_age=int(lasts.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=config.secure,
        path="/",
    )


async def form(request: Request) -> dict[str, str]:
    """The texts of a form; none where the request is not a form."""
    given = await request.form()
    return {key: value for key, value in given.items() if isinstance(value, str)}


Form = Annotated[dict[str, str], Depends(form)]


async def fields(request: Request) -> FormData:
    """A form in which a field may stand several times."""
    return await request.form()


Fields = Annotated[FormData, Depends(fields)]


def sender(request: Request) -> Visitor:
    """The person whose session or token comes with the request. Raises SignIn, and 401 for no such token."""
    config = config_of(request)
    with config.store.read() as session:
        bearer = _bearer(request)
        if bearer is not None:
            token = find_token(session, "api", bearer)
            if token is None or token.person is None:
                raise HTTPException(401, gettext("This token is not known."), {"WWW-Authenticate": "Bearer"})
            return Visitor(request, token.person, "")
        secret = session_secret(config, request)
        found = find_token(session, "session", secret) if secret else None
    if secret is None or found is None or found.person is None:
        raise SignIn
    csrf = hmac.new(config.secret.encode(), f"csrf {secret}".encode(), hashlib.sha256).hexdigest()
    return Visitor(request, found.person, csrf)


class SignedInRoute(APIRoute):
    """A route for those who are signed in: who asks is looked at before the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, which begins with the body, after that."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            request.state.visitor = who = await run_in_threadpool(sender, request)
            speak(request, who.person)
            kind = request.headers.get("content-type", "")
            if not kind.startswith(_FORMS):
                _check_csrf(who, request.headers.get("x-csrf-token", ""))
                await _check_values(request)
            return await handle(request)

        return handler


async def visitor(request: Request) -> Visitor:
    """Who asks, on a `SignedInRoute`.

    What a session writes needs its CSRF token: in a header, or in the form where a page has no JavaScript.
    """
    who: Visitor = request.state.visitor
    if request.headers.get("content-type", "").startswith(_FORMS):
        given = await form(request)
        _check_csrf(who, request.headers.get("x-csrf-token") or given.get("csrf", ""))
        if any("\0" in text for text in given.values()):
            raise HTTPException(422, gettext("The text holds a character that cannot be stored."))
    return who


def _check_csrf(who: Visitor, sent: str) -> None:
    if not who.csrf or who.request.method in ("GET", "HEAD", "OPTIONS"):
        return
    if not hmac.compare_digest(sent.encode("utf-8", "replace"), who.csrf.encode()):
        raise HTTPException(403, gettext("This page is out of date: reload it."))


async def _check_values(request: Request) -> None:
    """Refuse a body that would take many times its size when it is parsed."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    body = await request.body()
    most = _MOST_VALUES if len(body) > 2 * 2**20 else _MOST_VALUES // 10
    if body.count(b",") > most:
        raise HTTPException(
            413, gettext("This holds too many values: at most %(most)s are allowed.", most=number(most))
        )


def needs(*roles: str) -> Any:
    """A dependency that lets only these roles pass."""

    def check(who: Annotated[Visitor, Depends(visitor)]) -> Visitor:
        if who.person.role not in roles:
            raise HTTPException(403, gettext("Your role has no access to this."))
        return who

    return Depends(check)


SignedIn = Annotated[Visitor, needs("admin", "reviewer", "labeler")]  # anybody but a machine
Reviewer = Annotated[Visitor, needs("admin", "reviewer")]
Admin = Annotated[Visitor, needs("admin")]


def _bearer(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


def client_of(request: Request) -> str:
    """The address that a request comes from, as `network_of` counts it."""
    return network_of(request.client.host if request.client else "?")


def network_of(host: str) -> str:
    """An address; of IPv6 its network, in which one client has as many as it likes."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def wants_page(request: Request) -> bool:
    """Whether a browser asks, which shows a page, and not a program."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
