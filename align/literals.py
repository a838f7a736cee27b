"""Values that stand in a text as Python prints them, as pandas and numpy write cells."""

from __future__ import annotations

import ast
import io
import json
import math
import tokenize
import warnings
from itertools import pairwise
from typing import Any

_LONGEST = 200  # of a message


def literal(text: str) -> Any:
    """The value that a text writes as JSON, or as Python prints a list or an object; raises ValueError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return python_value(text)


def python_value(text: str) -> list[Any] | dict[str, Any]:
    """The list or object that a text holds as Python prints it, single quotes and all; raises ValueError.

    pandas writes such a cell. What is no JSON value (a set, bytes, a key that is no text) is refused, and so
    are texts side by side: numpy prints ['a' 'b'], which Python would read as one text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash that escapes nothing
            text = text.strip()
            try:
                value = _plain(ast.literal_eval(text))
            except SyntaxError:
                text = _with_commas(text)
                value = _plain(ast.literal_eval(text))
        before = 0
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING == before:
                raise ValueError("texts without a comma between them")
            before = token.type if token.type != tokenize.NL else before
    except (SyntaxError, tokenize.TokenError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(str(error)[:_LONGEST]) from error
    if not isinstance(value, (list, dict)):
        raise ValueError("neither a list nor an object")
    return value


def _with_commas(text: str) -> str:
    """numpy prints a list of objects without commas between them: they are put in."""
    found = list(tokenize.generate_tokens(io.StringIO(text).readline))
    lines = io.StringIO(text).readlines()
    for one, other in reversed(list(pairwise(t for t in found if t.type != tokenize.NL))):
        if one.string == "}" and other.string == "{":
            row, column = one.end
            lines[row - 1] = f"{lines[row - 1][:column]},{lines[row - 1][column:]}"
    return "".join(lines)


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
