"""What a format is, and the tools that every format reads its rows with.

A format is a function from a row (one JSON object, one line of a table) to records. Whatever the row holds,
it gives records or raises RecordError, which names the row's own column, never ours.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, TypeVar

from align.data.json_text import json_value
from align.literals import python_value
from align.messages import Messages
from align.records import Demonstration, Prompt, Ranking
from align.text import dotted
from align.values import RecordError

Row = Mapping[str, Any]
Placed = tuple[str, Row]  # "file:line", and the row there
T = TypeVar("T", Prompt, Demonstration, Ranking)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
WRONG_WAY_ROUND = (  # the same words in each row, so that these are told in one line
    "is lower than `{1}`: by these the answers are the wrong way round. Correct such rows or leave them out "
    "(`on_bad_record: skip`), or say `ignore: [{0}, {1}]` if the better one is better all the same"
)
UNUSED = "unused"  # the role of a column that a format knows, and of which nothing goes into a record


@dataclass(frozen=True)
class Unranked:
    """A prompt and responses that nobody has ranked: there is something to score, or to rank."""

    prompt: str | Messages
    responses: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """Something in a row that becomes no record and is not wrong, and why: it is counted and told."""

    reason: str  # the same for all that is left out for the same cause, so that it can be counted


@dataclass(frozen=True)
class Judged:
    """Answers to a prompt, each judged good or bad by itself.

    What is wanted decides what they are: a ranking, or a demonstration for each good one.
    """

    prompt: str | Messages
    good: tuple[str, ...]
    bad: tuple[str, ...]

    @property
    def responses(self) -> tuple[str, ...]:
        """All answers, the good ones first."""
        return self.good + self.bad

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**Prompt(self.prompt).to_dict(), "good": list(self.good), "bad": list(self.bad)}


Record = Prompt | Demonstration | Ranking | Unranked | Judged


@dataclass(frozen=True)
class Format:
    """How one source writes its rows.

    `read` gives the records of a row, and a LeftOut for each thing that becomes none. `columns`: each column
    of a row that `read` knows, and as what it is used ("prompt", "best", "rank", UNUSED where it is known
    and carries nothing of the record); None: nobody can say, as for a function. `gather` puts together rows
    of a file that belong together, and sees all of them: what it raises after the last one is told of the
    file. `lists`: columns that hold a list or an object: where a table has one as text, `read`, `detect` and
    `gather` get what it says. `typed`: a table's numbers come as numbers. `unread`: what stands within a
    column in use and is not used, by its dotted name.
    """

    name: str
    about: str  # one line: what is read as what
    read: Callable[[Row], Iterable[Record | LeftOut]]
    detect: Callable[[Row], bool]  # whether one row's columns (and types, where needed) are this format's
    gather: Callable[[Iterator[Placed]], Iterator[Placed]] | None = None
    columns: Mapping[str, str] | None = None
    lists: Sequence[str] = ()
    typed: bool = False
    unread: Callable[[Row], Mapping[str, Any]] | None = None
    settings: str = ""  # what a description outside the recipe adds to how it reads, for a cache's key


def of_tables(form: Format) -> Format:
    """The format, for rows of tables too: the columns it needs as lists or objects are read as these."""
    gather = form.gather
    if not form.lists:
        return form

    def seen(row: Row) -> Row:
        """As far as it can be read: what cannot is told by `read`."""
        try:
            return _with_lists(row, form.lists)
        except RecordError:
            return row

    return replace(
        form,
        read=lambda row: form.read(_with_lists(row, form.lists)),
        detect=lambda row: form.detect(seen(row)),
        gather=gather and (lambda rows: gather((place, seen(row)) for place, row in rows)),
    )


def _with_lists(row: Row, names: Sequence[str]) -> Row:
    found = {name: listed(row[name], name) for name in names if isinstance(row.get(name), str)}
    return {**row, **found} if found else row


def unused(names: str) -> dict[str, str]:
    """For `Format.columns`: columns that the format knows and needs nothing of."""
    return dict.fromkeys(names.split(), UNUSED)


def never(row: Row) -> bool:
    """The `detect` of a format that is only found by its name."""
    return False


def short(value: Any) -> str:
    """A value for a message: texts and numbers as they stand, cut; anything bigger by what it is."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (str, float)):
        return repr(value if isinstance(value, float) else value[:40])
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a huge number"
    return "a list" if isinstance(value, (list, tuple)) else "an object"


def part(row: Any, *path: str | int) -> Any:
    """The value at `path` in nested objects and lists; raises RecordError that names where it ends."""
    value, at = row, ""
    for key in path:
        if isinstance(key, int):
            if not isinstance(value, (list, tuple)):
                raise RecordError(at, f"must be a list, not {short(value)}")
            if key >= len(value):
                raise RecordError(at, f"has {len(value)} items: more are needed")
            value, at = value[key], f"{at}[{key}]"
            continue
        if not isinstance(value, Mapping):
            raise RecordError(at, f"must be an object with `{key}`, not {short(value)}")
        at = f"{at}.{key}" if at else key
        if key not in value:
            raise RecordError(at, "is missing")
        value = value[key]
    return value


def items(row: Any, *path: str | int) -> list[Any]:
    """The list at `path`; raises RecordError."""
    value = part(row, *path)
    if not isinstance(value, (list, tuple)):
        raise RecordError(dotted(path), f"must be a list, not {short(value)}")
    return list(value)


def text(row: Any, *path: str | int) -> str:
    """The text at `path`, which may be empty; raises RecordError."""
    value = part(row, *path)
    if not isinstance(value, str):
        raise RecordError(dotted(path), f"must be text, not {short(value)}")
    return value


def as_number(value: Any, field: str) -> float:
    """A finite number, or text that is one (tables hold only texts), as 2.5 or 2,5; raises RecordError."""
    if isinstance(value, str):
        value = _written(value, field)
    if isinstance(value, (Real, Decimal)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
            if math.isfinite(number):
                return number
    raise RecordError(field, f"must be a number, not {short(value)}")


def _written(text: str, field: str) -> float | str:
    """The number that a text is; the text where it is none."""
    plain = text.strip()
    if _THOUSANDS.fullmatch(plain):
        raise RecordError(
            field,
            f"is {short(text)}, which may be a whole number with its thousands set apart or a fraction: "
            "write it without the comma, or with a point",
        )
    if _COMMA.fullmatch(plain):
        plain = plain.replace(",", ".")
    return float(plain) if _NUMBER.fullmatch(plain) else text


def number(row: Any, *path: str | int) -> float:
    """The number at `path`; raises RecordError."""
    return as_number(part(row, *path), dotted(path))


def one_of(row: Any, allowed: Sequence[int], *path: str | int) -> int:
    """The whole number at `path`, one of `allowed`; raises RecordError."""
    value = number(row, *path)
    if value not in allowed:
        raise RecordError(
            dotted(path), f"must be one of {', '.join(map(str, allowed))}, not {short(part(row, *path))}"
        )
    return int(value)


def optional_number(row: Any, *path: str) -> float | None:
    """The number at `path`, or None where it is absent or null; raises RecordError for other things."""
    value = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else as_number(value, dotted(path))


def label(value: Any, field: str) -> str | None:
    """A name or an id as text; whole numbers (ids) become their digits; raises RecordError."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, Integral) and not isinstance(value, bool):
        return short(int(value))
    if isinstance(value, (Real, Decimal)) and not isinstance(value, bool) and float(value).is_integer():
        return short(int(float(value)))
    raise RecordError(field, f"must be a name or a whole number, not {short(value)}")


def listed(value: Any, field: str) -> Any:
    """The list or object that a text holds, as in a table; any other value as it is.

    JSON, or what Python prints for a list (pandas writes that). Raises RecordError for a text that begins
    like one and is none.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json_value(value)
    except RecordError as error:
        if not isinstance(error.__cause__, json.JSONDecodeError):
            raise RecordError(field, str(error)) from error
        wrong = error.message
    try:
        return python_value(value)
    except ValueError:
        what = "a list" if value.lstrip().startswith("[") else "an object"
        raise RecordError(
            field, f"begins like {what} and cannot be read as one ({wrong}): write it as JSON"
        ) from None


def has_texts(row: Row, *keys: str) -> bool:
    """Whether each of these columns holds text."""
    return all(isinstance(row.get(key), str) for key in keys)


def list_of(row: Row, key: str, kind: type) -> bool:
    """Whether this column holds a list, not empty, of `kind`."""
    value = row.get(key)
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(part, kind) for part in value)


def make(kind: type[T], values: Mapping[str, Any], names: Mapping[str, str]) -> T:
    """The checked record; `names` says which column each part came from, for the message of a RecordError."""
    try:
        return kind.from_dict(values)
    except RecordError as error:
        raise RecordError(_renamed(error.field, names), error.message) from None


def _renamed(field: str, names: Mapping[str, str]) -> str:
    for ours in sorted(names, key=len, reverse=True):
        rest = field.removeprefix(ours)
        if field.startswith(ours) and (not rest or rest[0] in ".["):
            return names[ours] + rest
    return field


def ranking(
    prompt: Any,
    responses: Sequence[Any],
    ranks: Sequence[int | None],
    prompt_name: str,
    response_names: Sequence[str],
    columns: Mapping[str, str] | None = None,
    **optional: Any,
) -> Ranking:
    """A checked ranking; its errors name the source's columns, as `columns` says for optional parts."""
    names = {"prompt": prompt_name, **(columns or {})}
    names |= {f"responses[{i}]": name for i, name in enumerate(response_names)}
    values = {"prompt": prompt, "responses": list(responses), "ranks": list(ranks)}
    return make(Ranking, values | optional, names)


def comparison(
    prompt: Any,
    pair: tuple[Any, Any],
    verdict: float,
    prompt_name: str,
    names: tuple[str, str],
    **optional: Any,
) -> Ranking:
    """A ranking of two: `verdict` below 0 says that the first is better, above 0 the second, 0 neither."""
    ranks = (1, 1) if verdict == 0 else (1, 2) if verdict < 0 else (2, 1)
    return ranking(prompt, pair, ranks, prompt_name, names, **optional)


def ranks_of(scores: Sequence[float | None]) -> list[int | None]:
    """Ranks 1, 2, 3… of scores where more is better; equal scores tie, None stays unranked."""
    order = sorted({score for score in scores if score is not None}, reverse=True)
    place = {score: i for i, score in enumerate(order, 1)}
    return [None if score is None else place[score] for score in scores]


def joined(first: str, second: Any, field: str) -> str:
    """An instruction and what it is about, with a blank line between; a blank one is left out.

    Raises RecordError.
    """
    if second is not None and not isinstance(second, str):
        raise RecordError(field, f"must be text, not {short(second)}")
    if not second or not second.strip():
        return first
    return f"{first}\n\n{second}" if first.strip() else second
