"""Rows as CSV for spreadsheets: one cell a value, and nothing that a spreadsheet would run as a formula."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from align.recipe.labeling import MAX_RESPONSES
from align.records import RecordKind

BOM = "\ufeff"  # spreadsheets take a file without it for another encoding
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", *"＝＋－＠")  # full-width: spreadsheets in East Asia
_RANKED = [f"{what}_{i + 1}" for i in range(MAX_RESPONSES) for what in ("response", "rank")]
COLUMNS: dict[RecordKind, list[str]] = {
    "prompts": ["prompt"],
    "demonstrations": ["prompt", "response", "parts", "checks"],
    "rankings": ["prompt", *_RANKED, "labeler", "guideline", "seconds", "source", "checks"],
}


def record_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A training record with a column for each response and rank; a conversation is JSON."""
    cells = {key: value for key, value in row.items() if key not in ("responses", "ranks", "shown_order")}
    for i, text in enumerate(row.get("responses", ())):
        cells[f"response_{i + 1}"], cells[f"rank_{i + 1}"] = text, row["ranks"][i]
    return cells


def lines(columns: list[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A table, line by line, with its heading; a text that begins like a formula gets an apostrophe first."""
    text = io.StringIO()
    writer = csv.writer(text)
    text.write(BOM)
    writer.writerow(columns)
    for row in rows:
        yield _taken(text)
        writer.writerow([_cell(row.get(column)) for column in columns])
    yield _taken(text)


def _taken(text: io.StringIO) -> str:
    said = text.getvalue()
    text.seek(0)
    text.truncate()
    return said


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{words}" if words.lstrip(" ").startswith(_FORMULA) else words
