"""Who asks, and whether the request is theirs: sessions, CSRF tokens, headers, limits."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.routing import APIRoute
from itsdangerous import BadSignature, Signer
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling.store.models import Person
from labeling.store.people import find_token, new_token
from labeling.web.config import Config, config_of

COOKIE = "align_session"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_TOO_LARGE = "The request is too large."


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
    response.set_cookie(
        COOKIE,
        Signer(config.secret, salt="session").sign(secret).decode(),
        max_age=int(lasts.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=config.secure,
        path="/",
    )
    return response


def session_secret(config: Config, request: Request) -> str | None:
    """The session's secret in the cookie, if we signed it."""
    try:
        return Signer(config.secret, salt="session").unsign(request.cookies.get(COOKIE, "")).decode()
    except (BadSignature, UnicodeError):
        return None


async def form(request: Request) -> dict[str, str]:
    """The texts of a form; none where the request is not a form."""
    given = await request.form()
    return {key: value for key, value in given.items() if isinstance(value, str)}


Form = Annotated[dict[str, str], Depends(form)]


def _sender(request: Request) -> Visitor:
    """The person whose session or token comes with the request. Raises SignIn, and 401 for no such token."""
    config = config_of(request)
    with config.store.read() as session:
        bearer = _bearer(request)
        if bearer is not None:
            token = find_token(session, "api", bearer)
            if token is None or token.person is None:
                raise HTTPException(401, "This token is not known.", {"WWW-Authenticate": "Bearer"})
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
            request.state.visitor = await run_in_threadpool(_sender, request)
            return await handle(request)

        return handler


async def visitor(request: Request) -> Visitor:
    """Who asks, on a `SignedInRoute`.

    What a session writes needs its CSRF token: in a header, or in the form where a page has no JavaScript.
    """
    who: Visitor = request.state.visitor
    if who.csrf and request.method not in ("GET", "HEAD", "OPTIONS"):
        sent = request.headers.get("x-csrf-token") or (await form(request)).get("csrf", "")
        if not hmac.compare_digest(sent.encode("utf-8", "replace"), who.csrf.encode()):
            raise HTTPException(403, "This page is out of date: reload it.")
    return who


def needs(*roles: str) -> Any:
    """A dependency that lets only these roles pass."""

    def check(who: Annotated[Visitor, Depends(visitor)]) -> Visitor:
        if who.person.role not in roles:
            raise HTTPException(403, "Your role has no access to this.")
        return who

    return Depends(check)


SignedIn = Annotated[Visitor, needs("admin", "reviewer", "labeler")]  # anybody but a machine
Reviewer = Annotated[Visitor, needs("admin", "reviewer")]
Admin = Annotated[Visitor, needs("admin")]


def _bearer(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


class Throttle:
    """Slows guessing: after some failures a name or an address has to wait, twice as long each time."""

    def __init__(
        self, free: int = 5, longest: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._free, self._longest, self._clock = free, longest, clock
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, *keys: str) -> float:
        """Seconds until the next try is looked at."""
        with self._lock:
            return max((self._until(key) - self._clock() for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        """Count one more failure for each."""
        with self._lock:
            if len(self._failures) > 10_000:
                oldest = sorted(self._failures, key=lambda key: self._failures[key][1])
                for key in oldest[:5_000]:
                    del self._failures[key]
            for key in keys:
                self._failures[key] = (self._failures.get(key, (0, 0.0))[0] + 1, self._clock())

    def succeeded(self, *keys: str) -> None:
        """Forget their failures."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _until(self, key: str) -> float:
        count, last = self._failures.get(key, (0, 0.0))
        return last + min(self._longest, 2.0 ** (count - self._free)) if count >= self._free else 0.0


class Guard:
    """Headers for every answer, and a limit for every request's body."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > self.limit:
            await PlainTextResponse(_TOO_LARGE, 413, HEADERS)(scope, receive, send)
            return
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit:
                raise HTTPException(413, _TOO_LARGE)
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers[key] = value
                if not scope["path"].startswith("/static/"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, limited, guarded)


def client_of(request: Request) -> str:
    """The address that a request comes from."""
    return request.client.host if request.client else "?"


def wants_page(request: Request) -> bool:
    """Whether a browser asks, which shows a page, and not a program."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
