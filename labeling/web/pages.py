"""Templates, and what every page has."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from align import svg
from align.messages import words_of
from labeling import language
from labeling.store.queue import MANY
from labeling.web import keys, words
from labeling.web.config import config_of
from labeling.web.language import COOKIE
from labeling.web.markdown import safe_html
from labeling.web.security import Visitor


def _time(moment: datetime | None) -> Markup:
    """A time in UTC, which static/times.js shows as the person's clock and language have it."""
    if moment is None:
        return Markup()
    moment = moment.astimezone(UTC)
    return Markup('<time datetime="{:%Y-%m-%dT%H:%M:%SZ}">{:%Y-%m-%d %H:%M} UTC</time>').format(
        moment, moment
    )


def _gettext(message: str, /, **values: object) -> Markup:
    """A text of the catalogue, which may hold tags; what is filled in is escaped."""
    return Markup(language.current().catalogue.gettext(message)) % values


def _ngettext(one: str, many: str, number_of: int, /, **values: object) -> Markup:
    text = language.current().catalogue.ngettext(one, many, number_of)
    return Markup(text) % {"num": language.number(number_of), **values}


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The extension adds it when it is loaded, so Jinja's types do not have it.
    made.newstyle_gettext = True  # type: ignore[attr-defined]
    made.policies["ext.i18n.trimmed"] = True
    made.globals.update(gettext=_gettext, ngettext=_ngettext, _=_gettext)
    made.filters |= {
        "markdown": safe_html,
        "answer": lambda text: safe_html(text, lines=True),
        "exact": lambda text: escape(text).replace("\r", Markup("&#13;")),  # else HTML makes \n of it
        "document": lambda text: safe_html(text, breaks=False),
        "words": words_of,
        "many": lambda number: f"{language.number(number)}{'+' if number >= MANY else ''}",
        "number": language.number,
        "short": language.short,
        "percent": language.percent,
        "day": language.day,
        "letter": lambda number: "ABCDEFGHI"[number],
        "named": words.named,
        "named_pair": lambda code: (code, words.named(code)),  # a choice: its value and its text
        "sentence": lambda text: text[:1].upper() + text[1:],
        "chart": svg.chart,
        "key": keys.named,
        "date": _time,
    }
    return made


_TEMPLATES = _environment()


def page(who: Visitor, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of a template for somebody who is signed in."""
    return open_page(who.request, template, status, who=who, **values)


def open_page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of a template for anybody."""
    config = config_of(request)
    values = {"who": None, "run": config.name, "path": request.url.path, **values}
    values |= {"language": language.current(), "languages": list(language.languages().values())}
    values |= {"chat": config.companion is not None, "chosen_before": request.cookies.get(COOKIE, "auto")}
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)
