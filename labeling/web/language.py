"""Which language a request is answered in."""

from __future__ import annotations

from babel import negotiate_locale
from fastapi import Request
from starlette.responses import Response

from labeling.language import ENGLISH, Language, languages, use
from labeling.store.models import Person
from labeling.web.config import config_of

COOKIE = "align_language"
AUTO = "auto"
LASTS = 400 * 24 * 3600  # seconds


def speak(request: Request, person: Person | None = None) -> None:
    """Answer this request in the person's language, else the one that was chosen in this browser, else the
    recipe's, else the one that the browser asks for. Programs are answered in English.
    """
    use(ENGLISH if request.url.path.startswith("/api/") else _language(request, person))


def _language(request: Request, person: Person | None) -> Language:
    recipe = config_of(request).settings.language
    chosen = (person.language if person is not None else None, request.cookies.get(COOKIE), recipe)
    there = languages()
    for code in chosen:
        if code in there:
            return there[code]
    wanted = _by_weight(request.headers.get("accept-language", ""))
    found = negotiate_locale(wanted, list(there), sep="-")
    return there.get(found or "", ENGLISH)


def _by_weight(header: str) -> list[str]:
    """The languages of an Accept-Language header, the one that is wanted most first."""
    weighed = []
    for part in header[:1000].split(","):
        code, _, weight = part.partition(";")
        try:
            weighed.append((-float(weight.partition("=")[2] or 1), code.strip()))
        except ValueError:
            continue
    return [code for weight, code in sorted(weighed, key=lambda found: found[0]) if code and weight]


def remember(response: Response, code: str, secure: bool) -> None:
    """Keep a choice in the browser, for the pages before somebody signs in; none that isn't a language."""
    if code in languages():
        response.set_cookie(
            COOKIE, code, max_age=LASTS, httponly=True, samesite="lax", secure=secure, path="/"
        )
    else:
        response.delete_cookie(COOKIE, path="/")
