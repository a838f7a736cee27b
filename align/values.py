"""Values of a record, checked one by one: an error names the field that is wrong."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

from align.errors import UserError
from align.literals import literal

V = TypeVar("V")


class RecordError(UserError):
    """A row is not a good record: `field` is the path of the part that is wrong ("" for the whole row)."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"`{field}` {message}" if field else message)
        self.field = field
        self.message = message


def read_literal(value: Any, field: str) -> Any:
    """What a text holds, as JSON or as Python prints it; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return literal(value)
    except ValueError:
        raise RecordError(field, "is neither JSON nor a Python literal") from None


def json_text(value: Any, field: str) -> str:
    """A value as JSON text; raises RecordError where JSON has no form for it."""
    try:
        return checked_text(json.dumps(value, ensure_ascii=False), field)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(field, f"holds what JSON has no form for: {str(error)[:80]}") from None


def refuse_unknown(
    row: Mapping[str, Any], known: Sequence[str], owner: str, path: str, beside: Sequence[str] = ()
) -> None:
    """Raise RecordError for a key that is neither known nor allowed beside; `owner` has them, at `path`."""
    for key in row:
        if key in known or key in beside:
            continue
        near = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        # repr: a key from a stranger's file may hold line breaks or terminal codes.
        shown = repr(str(key)[:60])[1:-1]
        raise RecordError(f"{path}{shown}", f"is an unknown key; {hint}{owner} has {', '.join(known)}")


def needed_part(row: Mapping[str, Any], field: str) -> Any:
    """A part of a row; raises RecordError where it is missing."""
    if field not in row:
        raise RecordError(field, "is missing")
    return row[field]


def optional_part(row: Mapping[str, Any], field: str, check: Callable[[Any, str], V]) -> V | None:
    """A part of a row as `check` gives it; None where it is not there, or null, or NaN."""
    return None if row.get(field) is None or is_nan(row[field]) else check(row[field], field)


def checked_text(value: Any, field: str) -> str:
    """A text that says something; raises RecordError for anything else."""
    if not isinstance(value, str):
        raise RecordError(field, f"must be text, not {in_json_words(value)}")
    if not value.strip():
        raise RecordError(field, "is empty")
    if "\0" in value:
        raise RecordError(field, "holds a NUL character (\\u0000): remove it")
    return whole_characters(value, field)


def whole_characters(text: str, field: str) -> str:
    """The text; raises RecordError where it holds half a character, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            field, "holds half of a surrogate pair (\\ud800 to \\udfff), which no text has"
        ) from error
    return text


def checked_name(value: Any, field: str) -> str:
    """A name; a whole number is its digits."""
    whole = whole_number(value)
    return checked_text(value if whole is None else str(whole)[:30], field)


def checked_number(value: Any, field: str) -> float:
    """A number from 0 up; raises RecordError for anything else."""
    if not is_real(value):
        raise RecordError(field, f"must be a number, not {in_json_words(value)}")
    if not 0 <= value <= 1e15 or math.isnan(value):
        raise RecordError(field, f"must be a number from 0 up, not {str(value)[:30]}")
    return float(value)


def whole_number(value: Any) -> int | None:
    """A whole number in any of the forms that libraries have (1, 1.0, numpy's); None: it is none."""
    if not is_real(value) or not (isinstance(value, Integral) or math.isfinite(value)):
        return None
    return int(value) if value == int(value) else None


def is_real(value: Any) -> bool:
    """Whether it is a number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_list(value: Any, field: str, of: str) -> list[Any]:
    """A list, or what libraries have for one, as a list; raises RecordError, which says a list of what."""
    value = unpacked(value)
    if not isinstance(value, list):
        raise RecordError(field, f"must be a list of {of}, not {in_json_words(value)}")
    return value


def unpacked(value: Any) -> Any:
    """A tuple, or an array of numpy or pandas, as a list; anything else as it is."""
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "__len__") else value


def is_nan(value: Any) -> bool:
    """Whether it is what pandas has for null."""
    return isinstance(value, float) and math.isnan(value)


def in_json_words(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Real):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, (list, tuple)) else "an object"
