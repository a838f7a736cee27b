"""Values that stand in a file as text: JSON without its traps, and lists as Python prints them."""

from __future__ import annotations

import ast
import io
import json
import math
import tokenize
import warnings
from typing import Any

from align.records import RecordError

_LONGEST = 200  # of a message


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


def python_value(text: str) -> list[Any] | dict[str, Any]:
    """The list or object that a text holds as Python prints it, single quotes and all; raises ValueError.

    pandas writes such a cell. What is no JSON value (a set, bytes, a key that is no text) is refused, and so
    are texts side by side: numpy prints ['a' 'b'], which Python would read as one text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash that escapes nothing
            value = _plain(ast.literal_eval(text.strip()))
        before = 0
        for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
            if token.type == tokenize.STRING == before:
                raise ValueError("texts without a comma between them")
            before = token.type if token.type != tokenize.NL else before
    except (SyntaxError, tokenize.TokenError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(str(error)[:_LONGEST]) from error
    if not isinstance(value, (list, dict)):
        raise ValueError("neither a list nor an object")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key that is no text")
        return {key: _plain(part) for key, part in value.items()}
    if (
        value is None
        or isinstance(value, (str, bool, int))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise ValueError(f"{type(value).__name__} is no value of a record")


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
