"""The app: routes, templates, and how errors are told."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from align.errors import UserError
from align.values import RecordError
from labeling.language import gettext
from labeling.retold import retold
from labeling.store.labels import NotYours
from labeling.web import (
    api,
    audit,
    calibration,
    chat,
    checks,
    figures,
    guideline,
    manage,
    review,
    signin,
    tasks,
    work,
    worktime,
)
from labeling.web.config import Config
from labeling.web.gate import Gate, Limits
from labeling.web.news import News
from labeling.web.pages import open_page
from labeling.web.security import SignIn, wants_page
from labeling.web.talking import Stops
from labeling.web.throttle import Door, Throttle
from labeling.web.uploads import Uploads

_DATABASE = (OperationalError, PoolTimeout)
_KNOWN = (SignIn, UserError, HTTPException, RequestValidationError, ClientDisconnect, *_DATABASE)
# In this order: /people/time is no person's number.
_PARTS = (work, checks, guideline, calibration, chat, review, figures, tasks, worktime, audit, manage, api)
_LOG = logging.getLogger("labeling")


def make_app(config: Config, limits: Limits | None = None) -> FastAPI:
    """The app of an open database; `limits` are the usual ones with the recipe's upload_limit."""
    app = FastAPI(
        title="align labeling",
        version="1",
        description="Create tasks, fetch labels. Send `Authorization: Bearer TOKEN`.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.config = config
    app.state.door = Door()
    app.state.wrong_links = Throttle()
    app.state.hashing = ThreadPoolExecutor(2, "password")  # each takes 64 MiB, and no labeler waits for it
    app.state.news = News(config.store)
    app.state.stops = Stops()
    app.state.checking = checks.Checking(config)
    app.state.uploads = Uploads(config.store, config.settings.upload_limit * 2**20)
    app.include_router(signin.own)
    for part in (signin, *_PARTS):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")), name="static")
    limits = limits or Limits(config.settings.upload_limit * 2**20)
    app.add_middleware(Gate, limits=limits, tell=_tell)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(config.hosts))
    for kind in (*_KNOWN, Exception):
        app.add_exception_handler(kind, _tell)
    return app


async def _tell(request: Request, error: Exception) -> Response:
    """What went wrong: a page for a browser, JSON for a program."""
    if isinstance(error, SignIn) and wants_page(request) and request.method == "GET":
        return RedirectResponse("/signin", 303)
    status, message = _problem(error)
    if status in (500, 503) and not isinstance(error, HTTPException):
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    if wants_page(request):
        response: Response = open_page(request, "message.html", status, message=message)
    else:
        response = JSONResponse({"detail": message}, status)
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def _problem(error: Exception) -> tuple[int, str]:
    """An error's status and message."""
    match error:
        case SignIn():
            return 401, gettext("You are signed out.")
        case OperationalError() | PoolTimeout():
            return 503, gettext("The database is busy: try again in a moment. What you did before is kept.")
        case NotYours():
            return 404, str(error)
        case UserError():
            return 422 if isinstance(error, RecordError) else 409, str(error)
        case ClientDisconnect():
            return 400, "The request broke off."  # nobody reads it
        case HTTPException():
            missing = error.detail == "Not Found"
            return error.status_code, gettext("There is no such page.") if missing else str(error.detail)
        case RequestValidationError():
            found = error.errors()[0] if error.errors() else {"loc": (), "msg": "not valid"}
            where = ".".join(str(part) for part in found["loc"] if part != "body")
            said = retold(str(found["msg"]))
            return 422, f"{where}: {said}" if where else said
    return 500, gettext("Something went wrong here; what you did before is kept.")
