"""JSON without its traps."""

from __future__ import annotations

import json
from typing import Any

from align.values import RecordError


def json_value(text: str) -> Any:
    """A text's JSON value; raises RecordError that says why it has none.

    NaN is null: Python writes it for a missing number. A key that appears twice is refused, so is Infinity.
    """
    try:
        return STRICT.decode(text)
    except (ValueError, RecursionError) as error:
        raise RecordError("", broken(error)) from error


def broken(error: ValueError | RecursionError) -> str:
    """What is wrong with a text that is not JSON."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON at column {error.colno}: {error.msg}"
    return f"broken JSON: {error}"  # a number with thousands of digits


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise RecordError(repr(twice[:60])[1:-1], "appears twice in one object")
    return row


def _constant(text: str) -> None:
    if text != "NaN":
        raise RecordError("", f"{text} is not a number in JSON")


STRICT = json.JSONDecoder(object_pairs_hook=_each_key_once, parse_constant=_constant)
