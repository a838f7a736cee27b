"""A whole table as one JSON object: a list of rows beside its description, columns, or rows under their ids.

A single record is an object with lists and objects in it as well: what may be either stays a record, or is
refused, and is never taken apart on a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align.data.lines import FileError, PlacedRow
from align.text import printable
from align.values import RecordError

# What a list of rows is called, and what may stand beside one that is called otherwise.
ROWS = {"data", "rows", "records", "examples", "entries", "samples", "items", "results", "dataset"}
ABOUT = {
    *("version", "name", "title", "description", "info", "meta", "metadata", "license", "licenses", "source"),
    *("url", "homepage", "citation", "author", "authors", "created", "created_at", "date", "timestamp"),
    *("count", "total", "num_rows", "num_rows_total", "size", "split", "config", "subset", "dataset"),
    *("language", "schema", "features", "partial", "page", "next", "previous"),
}
# Parts of a record: beside or among them, nothing is a table of rows.
PARTS = {
    *("prompt", "prompts", "question", "query", "instruction", "input", "context", "system", "history"),
    *("messages", "conversation", "conversations", "fields", "data", "chosen", "rejected", "response"),
    *("responses", "answer", "answers", "completion", "completions", "output", "outputs", "ranks", "scores"),
}


def unfolded(whole: Any, place: str) -> Iterator[PlacedRow]:
    """The rows of a file that is one value, with their places; `place` is the value's own.

    Raises FileError where there are several tables, or columns of different lengths.
    """
    rows = _rows(whole) if isinstance(whole, dict) else None
    return iter([(place, whole)]) if rows is None else rows


def _rows(whole: dict[str, Any]) -> Iterator[PlacedRow] | None:
    """The rows of an object that is a table; None for a record."""
    lists = {key: value for key, value in whole.items() if isinstance(value, list)}
    names = [key for key, value in lists.items() if _is_rows(value)]
    if {"columns", "data"} <= set(lists) and _is_split(whole["columns"], whole["data"]):
        return _numbered(dict(zip(whole["columns"], row, strict=True)) for row in whole["data"])
    name = _name_of_rows(whole, names)
    if name is not None:
        return _items(name, whole[name])
    if lists and len(lists) == len(whole):
        return _columns(lists, names)
    if not whole or not all(isinstance(value, dict) and value for value in whole.values()):
        return None
    if len(whole) == 1:
        name = next(iter(whole))
        return _rows(whole[name]) if name.lower() in ROWS else _by_index(whole)
    return _by_index(whole) or _by_key(whole)


def _is_rows(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(part, dict) for part in value) and not _is_messages(value)


def _is_messages(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(part, dict) and ("role" in part or "from" in part) for part in value
    )


def _is_split(columns: list[Any], data: list[Any]) -> bool:
    """Whether this is how pandas writes a table with `orient="split"`."""
    texts = all(isinstance(name, str) for name in columns) and len(set(columns)) == len(columns)
    return texts and all(isinstance(row, list) and len(row) == len(columns) for row in data)


def _name_of_rows(whole: dict[str, Any], names: list[str]) -> str | None:
    """Which of the lists of objects is the table, if one is."""
    if len(whole) == 1 and names:
        return names[0]
    for chosen in ([name for name in names if name.lower() in ROWS], names):
        beside = {key.lower() for key in whole if key not in chosen}
        if len(chosen) == 1 and (beside <= ABOUT or (chosen is not names and not beside & PARTS)):
            return chosen[0]
    return None


def _items(name: str, rows: list[dict[str, Any]]) -> Iterator[PlacedRow]:
    """The rows of a list; the Hub's viewer has each as `row` beside its number."""
    viewed = all(
        isinstance(row.get("row"), dict) and set(row) <= {"row", "row_idx", "truncated_cells"} for row in rows
    )
    for number, row in enumerate(rows, 1):
        place = f" item {number} of {_shown(name)}"
        if viewed and row.get("truncated_cells"):
            yield (
                place,
                RecordError("truncated_cells", "says that the row is cut: download the data set's files"),
            )
        else:
            yield place, row["row"] if viewed else row


def _columns(columns: dict[str, list[Any]], names: list[str]) -> Iterator[PlacedRow] | None:
    """The rows of a table that is written column by column."""
    if any(map(_is_messages, columns.values())):
        return None
    if len(names) > 1:
        found = ", ".join(map(_shown, names))
        raise FileError("", f"holds several lists of objects ({found}): save each as a file of its own")
    lengths = {_shown(name): len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in list(lengths.items())[:20])
        raise FileError(
            "", f"is an object of lists that differ in length ({found}): write one record an object"
        )
    return _numbered(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _numbered(rows: Iterator[dict[str, Any]]) -> Iterator[PlacedRow]:
    for number, row in enumerate(rows, 1):
        yield f" row {number}", row


def _by_index(whole: Mapping[str, dict[str, Any]]) -> Iterator[PlacedRow] | None:
    """The rows of a table as pandas writes it by default: each column an object, under the rows' numbers."""
    first = next(iter(whole.values()))
    if not all(key.isdecimal() for key in first) or any(
        set(column) != set(first) for column in whole.values()
    ):
        return None
    return ((f" row {_shown(key)}", {name: column[key] for name, column in whole.items()}) for key in first)


def _by_key(whole: Mapping[str, dict[str, Any]]) -> Iterator[PlacedRow] | None:
    """Rows under their ids, which have at least one key in common; parts of one record are none."""
    common = set.intersection(*(set(row) for row in whole.values()))
    if not common or common & {"role", "from"} or {key.lower() for key in whole} & PARTS:
        return None
    return ((f" key {_shown(key)}", row) for key, row in whole.items())


def _shown(key: str) -> str:
    return repr(printable(key[:60]))
