"""The app: routes, templates, and how errors are told."""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from align.errors import UserError
from align.records import RecordError
from labeling.store.labels import NotYours
from labeling.web import api, chat, figures, manage, review, signin, work
from labeling.web.config import Config
from labeling.web.news import News
from labeling.web.pages import open_page
from labeling.web.security import Guard, SignIn, Throttle, wants_page

_LOG = logging.getLogger("labeling")


def make_app(config: Config) -> FastAPI:
    """The app of an open database."""
    app = FastAPI(
        title="align labeling",
        version="1",
        description="Create tasks, fetch labels. Send `Authorization: Bearer TOKEN`.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.config = config
    app.state.throttle = Throttle()
    app.state.news = News(config.store)
    for part in (signin, work, chat, review, figures, manage, api):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")), name="static")
    app.add_middleware(Guard, limit=config.settings.upload_limit * 2**20)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(config.hosts))
    app.add_exception_handler(SignIn, _sign_in)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(Exception, _failed)
    return app


def _told(request: Request, status: int, message: str) -> Response:
    if wants_page(request):
        return open_page(request, "message.html", status, message=message)
    return JSONResponse({"detail": message}, status)


async def _sign_in(request: Request, error: Exception) -> Response:
    if wants_page(request) and request.method == "GET":
        return RedirectResponse("/signin", 303)
    return _told(request, 401, "You are signed out.")


async def _user_error(request: Request, error: Exception) -> Response:
    if isinstance(error, NotYours):
        return _told(request, 404, str(error))
    return _told(request, 422 if isinstance(error, RecordError) else 409, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "There is no such page." if error.detail == "Not Found" else str(error.detail)
    response = _told(request, error.status_code, message)
    if error.headers:
        response.headers.update(error.headers)
    return response


async def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0] if error.errors() else {"loc": (), "msg": "not valid"}
    where = ".".join(str(part) for part in found["loc"] if part != "body")
    return _told(request, 422, f"{where}: {found['msg']}" if where else str(found["msg"]))


async def _failed(request: Request, error: Exception) -> Response:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _told(request, 500, "Something went wrong here; what you did before is kept.")
