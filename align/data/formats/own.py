"""This project's own records as rows: prompts, demonstrations and rankings."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches

from align.data.formats.base import Format, Record, Row, listed
from align.messages import TOOLS
from align.records import Demonstration, Prompt, Ranking

PARTS = {TOOLS} | {field.name for record in (Demonstration, Ranking) for field in fields(record)}
LISTS = ("responses", "ranks", "shown_order", "parts", "checks")  # which a table holds as text


def read_own(row: Row) -> list[Record]:
    """A row in our record form; which of the three it is shows in its keys."""
    read = {key: listed(value, key) if key in LISTS else value for key, value in row.items()}
    if any(key in row for key in ("responses", "ranks")):
        return [Ranking.from_dict(read)]
    if "response" in row:
        return [Demonstration.from_dict(read)]
    return [Prompt.from_dict(row)]


def _detect(row: Row) -> bool:
    return "prompt" in row and set(row) <= PARTS and not isinstance(row["prompt"], dict)


def looks_like_own(row: Row) -> bool:
    """Whether a row is meant to be ours: each key is one of our names, or nearly."""
    return any(key in row for key in ("prompt", "response", "responses", "ranks")) and all(
        key in PARTS or get_close_matches(str(key).lower(), PARTS, n=1, cutoff=0.6) for key in row
    )


ALIGN = Format(
    "align",
    "this project's own prompts, demonstrations and rankings (ranks: 1 is best)",
    read_own,
    _detect,
    columns={name: name for name in PARTS},
)
