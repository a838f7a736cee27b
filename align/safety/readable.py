"""Whether a text is language at all: small models that were never tuned answer with anything."""

from __future__ import annotations

import re

from align.safety.phrases import (
    ARTICLES,
    FUNCTION_WORDS,
    NEVER_AFTER_ARTICLE,
    NEVER_AFTER_PREPOSITION,
    words,
)

_PREPOSITIONS = words("of with from at")
_SHORT = words("""
am an as at be by do go he hi if in is it me my no of oh ok on or so to up us we ab da du er es im ja ob
um wo zu de la le un et en il je ne ou se si te tu ce ma sa el lo mi ya y o a i e al di su os na em ik op
w z eh pm cm mm kg mg km l g ml dr mr s t d m n x id tv pc ai uk eu vs
""")
_LONG = 60
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def gibberish(text: str) -> str | None:
    """Why a text is no language, None where it may be one. Only what is in Latin letters is seen by words."""
    letters = [c for c in text if c.isalpha()]
    if text.count("\ufffd") * 20 > len(text):
        return "characters that are none"
    if len(re.findall("[ĠĊ]", text)) >= 3:
        return "tokens in place of text"
    tokens = re.findall(r"\w+", text.lower())
    if not tokens:
        return "no word"
    if 8 <= len(tokens) < _LONG and len(set(tokens)) < 0.3 * len(tokens):  # long texts repeat words anyway
        return "the same words again and again"
    if len(tokens) >= 16 and _repeated(tokens) > 0.5:
        return "the same phrase again and again"
    if sum(bool(_LATIN.match(c)) for c in letters) < 0.7 * len(letters):
        return None
    return _no_words([word.lower() for word in _WORD.findall(text)], text)


def _repeated(tokens: list[str]) -> float:
    """Share of the 4-grams that stood there before."""
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams)


def _no_words(found: list[str], text: str) -> str | None:
    """Why what is written in Latin letters are no words, or no sentences."""
    count = len(found)
    if sum(c in "[]{}|\\<>;:=^~@#" for c in text) > 0.15 * len(text):
        return "more signs than words"
    if count >= 5:
        if sum(_speakable(word) for word in found) < 0.7 * count:
            return "words that nobody can say"
        fragments = sum(len(word) <= 2 and word not in _SHORT for word in found)
        if fragments >= 0.3 * count:
            return "pieces of words"
    if count >= 12 and sum(word in FUNCTION_WORDS for word in found) < 0.08 * count:
        return "no word that sentences need"
    wrong = sum(
        (a in ARTICLES and b in NEVER_AFTER_ARTICLE) or (a in _PREPOSITIONS and b in NEVER_AFTER_PREPOSITION)
        for a, b in zip(found, found[1:], strict=False)
    )
    return "words in no order" if wrong >= 2 and wrong >= 0.06 * count else None


def _speakable(word: str) -> bool:
    """Whether a word has vowels where words have them; abbreviations of three letters pass."""
    if len(word) <= 2 and word in _SHORT:
        return True
    return bool(re.search(r"[aeiouyà-ɏ]", word)) and not re.search(r"[bcdfghjklmnpqrstvwxz]{6}", word)
