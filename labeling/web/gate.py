"""What stands before the app: how much a body may have, from whom, how slowly, and how many at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling.language import gettext, short
from labeling.web.config import config_of
from labeling.web.language import speak
from labeling.web.security import HEADERS, SignIn, client_of, sender, session_secret

BULK = ("/tasks", "/api/v1/tasks", "/api/v1/suggestions")  # may have what the recipe's upload_limit says
OPEN = ("/signin", "/join")  # for those who have no session yet
Tell = Callable[[Request, Exception], Awaitable[Response]]


@dataclass(frozen=True)
class Limits:
    """In bytes and seconds; `upload` is the recipe's."""

    upload: int
    stranger: int = 64 * 2**10  # a form with a name and a password
    work: int = 2 * 2**20  # an answer, a draft, a conversation
    silence: float = 20.0
    grace: float = 30.0  # a body takes no longer than this, and
    rate: int = 16 * 2**10  # one second more for so many bytes
    of_session: int = 24  # requests at once: a browser makes six
    of_address: int = 200  # without a session; programs that wait for labels are among them
    large: int = 2  # bodies over `work` at once


class Gate:
    """Refuses before a body is parsed, and sets headers for every answer."""

    def __init__(self, app: ASGIApp, limits: Limits, tell: Tell) -> None:
        self.app, self.limits, self.tell = app, limits, tell
        self._open: Counter[str] = Counter()
        self.large = 0  # bodies over `work` that are being read or handled now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        speak(request)
        body = _Body(self, request, receive)
        guarded = _guarded(scope, body, send)
        secret = session_secret(config_of(request), request)
        who, most = (
            (secret, self.limits.of_session) if secret else (client_of(request), self.limits.of_address)
        )
        self._open[who] += 1
        try:
            if self._open[who] > most:
                raise _busy(gettext("Too many requests at once: try again in a moment."))
            if _from_elsewhere(request):
                raise HTTPException(403, gettext("This request comes from another site."))
            await body.expect()
        except Exception as error:  # told as the app's own are
            await (await self.tell(request, error))(scope, receive, guarded)
        else:
            await self.app(scope, body.receive, guarded)
        finally:
            body.end()
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]


class _Body:
    """A request's body as it comes: counted, and not waited for without end."""

    def __init__(self, gate: Gate, request: Request, receive: Receive) -> None:
        self.limits = gate.limits
        self._gate, self._request, self._receive = gate, request, receive
        length = request.headers.get("content-length", "0")
        self._length = int(length) if length.isascii() and length.isdigit() else -1
        chunked = "transfer-encoding" in request.headers
        self.complete = self._length == 0 and not chunked
        self._size = 0
        self._begun = time.monotonic()
        self._allowed = self.limits.stranger
        self._worth_reading = self.limits.work  # bytes to pass over, so that a browser shows the answer
        self._is_large = False

    async def expect(self) -> None:
        """Refuse a body whose length is told, before any of it is read."""
        if self._length < 0:
            raise HTTPException(400, gettext("The length of the request is not a number."))
        await self._make_room(self._length)

    async def receive(self) -> Message:
        """The next part. Raises 408 where it takes too long, 413 and 401 where it is too much."""
        if self.complete:
            return await self._receive()
        try:
            message = await self._next()
        except TimeoutError:
            raise HTTPException(408, gettext("The request came too slowly.")) from None
        await self._make_room(self._size)
        return message

    async def passed_over(self) -> bool:
        """Read on and keep nothing; whether the end came within what is worth it."""
        try:
            while not self.complete:
                if max(self._size, self._length) > self._worth_reading:
                    return False
                await self._next()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        """The request is answered."""
        if self._is_large:
            self._gate.large -= 1

    async def _next(self) -> Message:
        left = self._begun + self.limits.grace + self._size / self.limits.rate - time.monotonic()
        message = await asyncio.wait_for(self._receive(), max(0.001, min(self.limits.silence, left)))
        self._size += len(message.get("body", b""))
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def _make_room(self, size: int) -> None:
        if size > self._allowed == self.limits.stranger:
            self._allowed = await self._allowed_to_sender()
        if size > self._allowed:
            raise HTTPException(413, _too_large(self._allowed, self._allowed == self.limits.upload))
        if size > self.limits.work and not self._is_large:
            if self._gate.large >= self.limits.large:
                raise _busy(gettext("Other large files are coming in: try again in a moment."))
            self._is_large = True
            self._gate.large += 1

    async def _allowed_to_sender(self) -> int:
        path = self._request.url.path
        try:
            who = await run_in_threadpool(sender, self._request)
        except SignIn:
            if path.startswith(OPEN):
                return self.limits.stranger
            raise
        self._worth_reading = 16 * self.limits.upload
        adds = path in BULK and who.person.role in ("admin", "machine")
        return self.limits.upload if adds else min(self.limits.work, self.limits.upload)


def _guarded(scope: Scope, body: _Body, send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for key, value in HEADERS.items():
                headers[key] = value
            if not scope["path"].startswith("/static/"):
                headers["Cache-Control"] = "no-store"
            if not await body.passed_over():
                headers["Connection"] = "close"
        await send(message)

    return guarded


def _busy(why: str) -> HTTPException:
    # The connection ends: others would wait for the requests behind this one to be refused, too.
    return HTTPException(503, why, {"Retry-After": "2", "Connection": "close"})


def _too_large(allowed: int, by_recipe: bool) -> str:
    size = f"{short(allowed / 2**20)} MiB" if allowed >= 2**20 else f"{allowed // 2**10} KiB"
    said = gettext("This is too large: at most %(size)s are allowed.", size=size)
    if by_recipe:
        said += " " + gettext("Give it in parts, or raise `labeling.upload_limit` in the recipe.")
    return said


def _from_elsewhere(request: Request) -> bool:
    """Whether another site's page sends this, also to sign somebody in as somebody else.

    Browsers name the site in one header or the other; programs send neither.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return False
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return False
    place, config = urlsplit(origin).netloc, config_of(request)  # "" of `null`, which hides whose it is
    return not place or place not in (request.headers.get("host"), urlsplit(config.address).netloc)
