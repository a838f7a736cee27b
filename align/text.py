"""Texts and numbers as people read them; a stranger's text shows what it hides."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

_OVERRIDES = "\u202d\u202e"  # they turn the text that follows around
_LIMIT = 4000  # characters of one text that a page shows


def key(text: str) -> int:
    """64 bits of a hash, to compare texts that need not stay in memory; the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def clean(value: Any, limit: int = _LIMIT) -> Any:
    """A JSON value whose texts can be shown: not endless, control characters and lone surrogates visible."""
    if isinstance(value, dict):
        return {clean(str(key), 200): clean(part, limit) for key, part in value.items()}
    if isinstance(value, list):
        return [clean(part, limit) for part in value]
    if not isinstance(value, str):
        return value
    rest = f"… ({len(value) - limit:,} more characters)" if len(value) > limit else ""
    return "".join(_visible(c) for c in value[:limit]) + rest


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs") or character in _OVERRIDES
    if character in "\n\t" or not hidden:
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def printable(text: str, keep: str = "") -> str:
    """A text for a terminal, which obeys codes in it: what does not print, but for `keep`, is escaped."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def cell_text(value: Any) -> str:
    """What stands in a cell as a text to compare by: 1, 1.0 and "1.0" are "1", nothing is ""."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    whole, point, rest = text.partition(".")
    return whole if point and whole.lstrip("-").isdecimal() and not rest.strip("0") else text


# What a column of numbers is called where less of it is better.
LOSSES = {"loss", "losses", "error", "errors", "perplexity", "ppl", "toxicity", "penalty"}


def words_of_name(column: str) -> list[str]:
    """The words of a column's name: isCorrect and is_correct are is, correct."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)
    return [word.casefold() for word in re.split(r"[\W_]+", parted) if word]


def dotted(keys: Iterable[str | int]) -> str:
    """A path into objects and lists: `("data", "prompts", "train", 0)` as `data.prompts.train[0]`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def number(value: float) -> str:
    """A number as a reader wants it: four figures at most, thousands set apart, a real minus sign."""
    if value != value or math.isinf(value):
        return "–"
    size = abs(value)
    if size >= 1000 or value == round(value):
        text = f"{value:,.0f}"
    elif size >= 0.001:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"
        text = text.rstrip("0").rstrip(".") if size < 1 else text
    else:
        text = f"{value:.1e}"
    return text.replace("-", "−")


def two(value: float) -> str:
    """A number with two decimals at most: enough for a score."""
    return number(round(value, 2)) if math.isfinite(value) else number(value)


def percent(value: float) -> str:
    """A share in percent, with one decimal but for 0 and 100."""
    text = f"{100 * value:.1f}"
    return (text.removesuffix(".0") if text in ("0.0", "100.0") else text).replace("-", "−") + "%"


def span(seconds: float) -> str:
    """Seconds in readable units: 42 s, 7 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
