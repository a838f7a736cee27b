"""Answers that are put together from parts of other responses: where each part is from, where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from align.errors import UserError
from labeling.language import gettext

MOST_PARTS = 100
_PLACE = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Part(BaseModel):
    """Characters [start, end) of a response's text as it was written; `response` is its index."""

    model_config = ConfigDict(extra="forbid", strict=True)
    response: _PLACE
    start: _PLACE
    end: _PLACE
    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    edited: bool = False  # said by `checked_parts`, whatever was sent


Parts = Annotated[list[Part], Field(max_length=MOST_PARTS)]


def checked_parts(
    parts: Sequence[dict[str, Any]], text: str, responses: Sequence[str]
) -> list[dict[str, Any]]:
    """The parts of an answer with this text, each with whether it was edited since it was taken.

    Raises UserError where one is no part of these responses.
    """
    for number, part in enumerate(parts, start=1):
        response, start, end = part["response"], part["start"], part["end"]
        if response >= len(responses):
            raise UserError(
                gettext(
                    "Part %(number)s of the answer is of a response that this task doesn't have.",
                    number=number,
                )
            )
        source = responses[response]
        if not 0 <= start < end <= len(source):
            raise UserError(
                gettext("Part %(number)s of the answer is no range of its response's text.", number=number)
            )
        if source[start:end] != part["text"]:
            raise UserError(
                gettext(
                    "Part %(number)s of the answer isn't what stands at that place of its response.",
                    number=number,
                )
            )
    places = located(text, [part["text"] for part in parts])
    return [{**part, "edited": place is None} for part, place in zip(parts, places, strict=True)]


def located(text: str, parts: Sequence[str]) -> list[int | None]:
    """Where each part stands in `as_typed(text)` word for word; None: nowhere any more.

    Each is looked for behind the one before it, then anywhere; no two share a character.
    """
    text, taken = as_typed(text), list[tuple[int, int]]()
    found: list[int | None] = []
    behind = 0
    for part in map(as_typed, parts):
        at = _free(text, part, behind, taken)
        if at is None:
            at = _free(text, part, 0, taken)
        if at is not None:
            behind = at + len(part)
            taken.append((at, behind))
        found.append(at)
    return found


def as_typed(text: str) -> str:
    """A text as a field of a page gives it back: every line ends with one character."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _free(text: str, part: str, start: int, taken: Sequence[tuple[int, int]]) -> int | None:
    at = text.find(part, start)
    while at >= 0:
        end = at + len(part)
        hit = next((stop for begin, stop in taken if begin < end and at < stop), None)
        if hit is None:
            return at
        at = text.find(part, hit)
    return None


def in_pieces(text: str, parts: Sequence[dict[str, Any]]) -> list[tuple[str, int | None]]:
    """A text cut where parts begin and end: each piece with its part's number from 0, or None."""
    text = as_typed(text)
    places = located(text, [part["text"] for part in parts])
    stand = sorted((at, number) for number, at in enumerate(places) if at is not None)
    pieces: list[tuple[str, int | None]] = []
    behind = 0
    for at, number in stand:
        end = at + len(as_typed(parts[number]["text"]))
        pieces += [(text[behind:at], None), (text[at:end], number)]
        behind = end
    return [(piece, number) for piece, number in [*pieces, (text[behind:], None)] if piece]
