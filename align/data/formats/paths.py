"""Columns by their names or dotted paths, and the several values that one or several of them hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.data.formats.base import Row, listed, short
from align.text import cell_text
from align.values import RecordError

if TYPE_CHECKING:
    from align.recipe.columns import Names


@dataclass(frozen=True)
class Cell:
    """One of several values: what messages call it, and by what key its response is known, if any."""

    name: str
    key: str | None
    value: Any


def look_up(row: Row, path: str) -> Any:
    """A column's value, by its name or by a dotted path; raises RecordError that names what is there.

    A path through a list without a number goes through all of it.
    """
    if path in row:
        return row[path]
    value: Any = row
    keys = path.split(".")
    for i, key in enumerate(keys):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, (list, tuple)) and key.isdecimal() and len(key) < 9 and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, (list, tuple)) and not key.isdecimal():
            rest = ".".join(keys[i:])
            return [_in_list(part, rest, f"{'.'.join(keys[:i])}[{j}]") for j, part in enumerate(value)]
        else:
            there = ", ".join(short(str(name)) for name in list(value)[:20]) if i == 0 else ""
            raise RecordError(path, "is missing" + (f"; the columns are {there}" if there else ""))
    return value


def without(row: Row, names: Sequence[str]) -> Row:
    """The row less these columns; a dotted name is that of a part of a column ("data.note")."""
    kept = {name: value for name, value in row.items() if name not in names}
    for name in names:
        first, _, rest = name.partition(".")
        if rest and isinstance(kept.get(first), Mapping):
            kept[first] = without(kept[first], [rest])
    return kept


def _in_list(part: Any, rest: str, where: str) -> Any:
    """A value of one item of a list; a RecordError names the item."""
    try:
        return look_up(part if isinstance(part, Mapping) else {}, rest)
    except RecordError as error:
        raise RecordError(f"{where}.{error.field}", error.message) from None


def several(row: Row, source: Names) -> list[Cell]:
    """The value of each of several columns, or each item of a column with a list or an object.

    A column is known by its name, what stands in an object by its key, an item of a list by nothing.
    """
    if not isinstance(source, str):
        return [Cell(name, name, look_up(row, name)) for name in source]
    value = listed(look_up(row, source), source)
    if isinstance(value, Mapping):
        return [Cell(f"{source}.{short_key(key)}", cell_text(key), part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [Cell(f"{source}[{i}]", None, part) for i, part in enumerate(value)]
    return [Cell(source, source, value)]


def short_key(key: Any) -> str:
    """A key of a stranger's object for a message."""
    return repr(str(key)[:40])[1:-1]


def shown(source: Names) -> str:
    """Columns for a message."""
    return source if isinstance(source, str) else ", ".join(source)
