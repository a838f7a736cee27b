"""The language of the interface: strings of a catalogue, plural forms, numbers and days.

The code says everything in English; `locale/CODE.po` has the same in another language, and what is not
translated there stays English. What is stored or exported, and the command line, is never translated: a
language is set for a request that shows a page, and nowhere else.
"""

from __future__ import annotations

import gettext as catalogues
import io
import math
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path

from babel import Locale
from babel.dates import format_date
from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, get_group_symbol

ROOT = Path(__file__).parent
FOLDER = ROOT / "locale"
SCRIPTS = "/static/"  # a message of a file below it is one of the browser's
_TYPED = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
_COUNTS = 200  # whole numbers up to this show which plural form is which


@dataclass(frozen=True)
class Language:
    """One language; `scripts` are the translations that JavaScript needs, forms where there are several.

    `plurals`: the place in these forms of each of CLDR's categories. `share`: how much is translated, rounded
    down to whole percent.
    """

    code: str
    locale: Locale
    catalogue: catalogues.NullTranslations
    scripts: Mapping[str, str | list[str]]
    plurals: Mapping[str, int]
    share: float = 1.0

    @property
    def name(self) -> str:
        """Its own name, as "Deutsch"."""
        name = self.locale.get_display_name(self.locale) or self.code
        return name[:1].upper() + name[1:]

    @property
    def direction(self) -> str:
        """`ltr`, or `rtl` where lines begin at the right."""
        return self.locale.text_direction


ENGLISH = Language("en", Locale("en"), catalogues.NullTranslations(), {}, {"one": 0, "other": 1})
_current: ContextVar[Language] = ContextVar("language", default=ENGLISH)


@cache
def languages() -> dict[str, Language]:
    """English, and every language that has a catalogue, by its code."""
    found = {path.stem: read_language(path) for path in sorted(FOLDER.glob("*.po"))}
    return {"en": ENGLISH, **found}


def read_language(path: Path) -> Language:
    """A language of a file CODE.po."""
    with path.open("rb") as file:
        return language_of(read_po(file, locale=path.stem.replace("-", "_")), path.stem)


def language_of(catalog: Catalog, code: str) -> Language:
    """A language of a catalogue that was read."""
    locale = catalog.locale or Locale.parse(code, sep="-")
    compiled = io.BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    catalogue = catalogues.GNUTranslations(compiled)
    messages = [message for message in catalog if message.id]
    done = [message for message in messages if _is_translated(message)]
    scripts: dict[str, str | list[str]] = {
        _singular(message): _forms(message) if message.pluralizable else _forms(message)[0]
        for message in done
        if any(SCRIPTS in place for place, _ in message.locations)
    }
    index: dict[str, int] = {}
    # GNUTranslations makes `plural` of the catalogue's header, untold by its stub.
    for count in range(_COUNTS):
        index.setdefault(locale.plural_form(count), catalogue.plural(count))  # type: ignore[attr-defined]
    index.setdefault("other", max(index.values()))
    return Language(code, locale, catalogue, scripts, index, 100 * len(done) // max(1, len(messages)) / 100)


def _is_translated(message: Message) -> bool:
    return bool(_forms(message)) and all(_forms(message)) and not message.fuzzy


def _forms(message: Message) -> list[str]:
    string = message.string or ""
    return list(string) if isinstance(string, tuple | list) else [string]


def _singular(message: Message) -> str:
    return message.id[0] if isinstance(message.id, tuple | list) else message.id


def use(language: Language) -> None:
    """Speak this language from here on, in this request."""
    _current.set(language)


def current() -> Language:
    """The language of this request; English outside of one."""
    return _current.get()


def N_(message: str) -> str:
    """Marks a text that is translated where it is shown."""
    return message


def gettext(message: str, /, **values: object) -> str:
    """A text with its `%(name)s` filled in; a percent sign is `%%`."""
    return _current.get().catalogue.gettext(message) % values


def ngettext(one: str, many: str, number_of: int, /, **values: object) -> str:
    """The text for so many; `%(num)s` is their number."""
    text = _current.get().catalogue.ngettext(one, many, number_of)
    return text % {"num": number(number_of), **values}


def number(value: float, digits: int = 0) -> str:
    """A number with so many decimals, as the language writes it."""
    form = "#,##0" + ("." + "0" * digits if digits else "")
    return format_decimal(Decimal(f"{value:.{digits}f}"), format=form, locale=_current.get().locale)


def short(value: float, digits: int = 3) -> str:
    """A number with the decimals that it has, at most so many."""
    form = "#,##0." + "#" * digits
    return format_decimal(Decimal(f"{value:.{digits}f}"), format=form, locale=_current.get().locale)


def read_number(text: str) -> float | None:
    """A number as people type it, 0.5 or 0,5, whatever their language; None where it is none.

    What the language would read as thousands set apart (in English 1,500, in German 1.500) is none either.
    """
    typed = text.strip().replace("\N{MINUS SIGN}", "-")[:40]
    group = re.escape(get_group_symbol(_current.get().locale))
    if not _TYPED.fullmatch(typed) or re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}{group}\d{{3}}", typed):
        return None
    value = float(typed.replace(",", "."))
    return value if math.isfinite(value) else None


def percent(share: float) -> str:
    """A share in whole percent."""
    return gettext("%(number)s %%", number=number(100 * share))


def day(of: date) -> str:
    """A day, without a time."""
    language = _current.get()
    return of.isoformat() if language is ENGLISH else format_date(of, "medium", locale=language.locale)
