"""Characters that nobody sees, and letters of one script that pass for another's within a word."""

from __future__ import annotations

import re
import unicodedata

# Zero width, soft hyphens, marks and overrides of direction, and the invisible tags of U+E0000.
_HIDDEN = re.compile(
    "[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
# Cyrillic and Greek letters that look like Latin ones.
_ALIKE = "АВЕЅІЈКМНОРСТУХаеѕіјорсухԁԛԝһ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρ"
_MIXED = re.compile(f"[A-Za-z][{_ALIKE}]|[{_ALIKE}][A-Za-z]")
_JOINS = "\u200c\u200d"  # which other scripts, and emoji, are written with
_TURNS = "\u200e\u200f"  # which texts that run from right to left are written with


def hidden_characters(text: str) -> list[str]:
    """Their names, once each, where no script in the text is written with them."""
    if text.isascii():
        return []
    found: dict[str, None] = {}
    for hit in _HIDDEN.finditer(text):
        sign, start = hit[0], hit.start()
        beside = text[max(0, start - 1) : start] + text[start + 1 : start + 2]
        if sign in _JOINS and any(not _is_latin(c) for c in beside):
            continue
        if sign in _TURNS and any(unicodedata.bidirectional(c) in ("R", "AL") for c in text):
            continue
        if sign >= "\U000e0000" and "\U0001f3f4" in text:  # flags of regions
            continue
        found[unicodedata.name(sign, f"U+{ord(sign):04X}")] = None
    return list(found)


def lookalikes(text: str) -> list[str]:
    """Words in which Latin letters stand beside Cyrillic or Greek ones that look like Latin ones."""
    if text.isascii() or not _MIXED.search(text):
        return []
    return list(dict.fromkeys(word for word in text.split() if _MIXED.search(word)))


def _is_latin(sign: str) -> bool:
    return sign.isascii() or unicodedata.name(sign, "").startswith("LATIN")
