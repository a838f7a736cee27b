"""What `align score` reads: rows with a prompt and a response or several, with what else stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from align.data.formats import Format, LeftOut, detect, find
from align.data.rows import FileError, read_rows
from align.data.scan import gathered
from align.errors import UserError
from align.records import Demonstration, Messages, Prompt, Ranking, RecordError

SCORE, SCORES = "score", "scores"


@dataclass(frozen=True)
class ScoreItem:
    """One row to score: `key` is what its score, or its responses' scores, will be called in `row`."""

    place: str
    row: dict[str, Any]
    prompt: str | Messages
    responses: tuple[str, ...]
    key: str


def read_items(path: Path, format: str | None = None) -> Iterator[ScoreItem | RecordError]:
    """The rows of a file in their order; a bad one comes as an error that names file, line and field.

    A row with `prompt` and `response` or `responses` is taken as it is, with all its other columns. Any
    other is read as the format says that is named, or that its file's first row shows. Raises UserError
    where the file as a whole is no good.
    """
    chosen = find(format) if format else None
    rows = _rows(path)
    try:
        if chosen is not None:
            yield from _formatted(rows, chosen)
            return
        for place, row in rows:
            if isinstance(row, RecordError):
                yield _at(place, row)
            elif _is_plain(row):
                yield _plain(place, row)
            else:
                yield from _formatted(chain([(place, row)], rows), _detected(place, row))
                return
    except FileError as error:
        raise UserError(f"{path}{error.place}: {error.message}") from error


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        raise UserError(f"{path}: is a folder: name the files in it one by one")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    for place, row in read_rows(path):
        if not isinstance(row, (Mapping, RecordError)):
            row = RecordError("", "is not an object with columns")
        yield f"{path}{place}", row


def _at(place: str, error: RecordError) -> RecordError:
    return RecordError("", f"{place}: {error}")


def _is_plain(row: Mapping[str, Any]) -> bool:
    return "prompt" in row and ("response" in row) != ("responses" in row)


def _plain(place: str, row: Mapping[str, Any]) -> ScoreItem | RecordError:
    try:
        single = "response" in row
        key = SCORE if single else SCORES
        if key in row:
            raise RecordError(key, "is there already: rename or remove the column")
        responses = [row["response"]] if single else row["responses"]
        if not isinstance(responses, (list, tuple)) or not responses:
            raise RecordError("responses", "must be a list of texts, and not empty")
        records = []
        for i, response in enumerate(responses):
            try:
                records.append(Demonstration.from_dict({"prompt": row["prompt"], "response": response}))
            except RecordError as error:
                field = f"responses[{i}]" if not single and error.field == "response" else error.field
                raise RecordError(field, error.message) from error
        texts = tuple(record.response for record in records)
        return ScoreItem(place, dict(row), records[0].prompt, texts, key)
    except RecordError as error:
        return _at(place, error)


def _detected(place: str, row: Mapping[str, Any]) -> Format:
    try:
        return detect(row)
    except UserError as error:
        raise UserError(
            f"{place}: {error} (`align score` takes the name by --format. A row with `prompt` and `response` "
            "needs none.)"
        ) from error


def _formatted(rows: Iterator[tuple[str, Any]], format: Format) -> Iterator[ScoreItem | RecordError]:
    """Records as the format reads them, in the form of our own records."""
    for place, row in gathered(format, rows):
        if isinstance(row, RecordError):
            yield _at(place, row)
            continue
        try:
            for found in format.read(row):
                if not isinstance(found, LeftOut):
                    yield _item(place, found)
        except RecordError as error:
            yield _at(place, error)


def _item(place: str, record: Prompt | Demonstration | Ranking) -> ScoreItem:
    row = record.to_dict()
    if isinstance(record, Demonstration):
        return ScoreItem(place, row, record.prompt, (record.response,), SCORE)
    if isinstance(record, Ranking):
        return ScoreItem(place, row, record.prompt, record.responses, SCORES)
    raise RecordError("", "holds a prompt without a response, and only responses have scores")
