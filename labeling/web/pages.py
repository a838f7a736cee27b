"""Templates, and what every page has."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from align import svg
from align.messages import words_of
from labeling.store.queue import MANY
from labeling.web import keys
from labeling.web.config import config_of
from labeling.web.markdown import safe_html
from labeling.web.security import Visitor

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["markdown"] = safe_html
_TEMPLATES.filters["answer"] = lambda text: safe_html(text, lines=True)
_TEMPLATES.filters["exact"] = lambda text: escape(text).replace(
    "\r", Markup("&#13;")
)  # else HTML makes \n of it
_TEMPLATES.filters["document"] = lambda text: safe_html(text, breaks=False)
_TEMPLATES.filters["words"] = words_of
_TEMPLATES.filters["many"] = lambda number: f"{number}{'+' if number >= MANY else ''}"
_TEMPLATES.filters["letter"] = lambda number: "ABCDEFGHI"[number]
_TEMPLATES.filters["twice"] = lambda text: (text, text)  # a choice that is called what it is
_TEMPLATES.filters["chart"] = svg.chart
_TEMPLATES.filters["key"] = keys.named


def _date(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC") if moment else ""


_TEMPLATES.filters["date"] = _date


def page(who: Visitor, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of a template for somebody who is signed in."""
    return open_page(who.request, template, status, who=who, **values)


def open_page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of a template for anybody."""
    config = config_of(request)
    values = {"who": None, "run": config.name, "path": request.url.path, **values}
    values["chat"] = config.companion is not None
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)
