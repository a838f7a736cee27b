"""What `align score` reads: rows with a prompt and a response or several, with what else stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from align.data.formats import Format, Judged, LeftOut, Record, Unranked, detect
from align.data.formats.base import listed
from align.data.likeness import looks_like
from align.data.one_file import OneFile
from align.data.rows import EMPTY_ROW, FileError, read_rows
from align.errors import UserError
from align.messages import TOOLS, Messages
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

SCORE, SCORES = "score", "scores"


@dataclass(frozen=True)
class ScoreItem:
    """One row to score: `key` is what its score, or its responses' scores, will be called in `row`."""

    place: str
    row: dict[str, Any]
    prompt: str | Messages
    responses: tuple[str, ...]
    key: str


def read_items(
    path: Path, form: Format | None = None, one: OneFile | None = None
) -> Iterator[ScoreItem | RecordError | LeftOut]:
    """The rows of a file in their order; a bad one comes as an error that names file, line and field.

    What a format leaves out comes as a LeftOut, and columns that nothing uses, and that look like a part of a
    record, as errors after the last row, unless they are to be ignored. `one` says which to
    ignore, and learns of them.

    A row with `prompt` and `response` or `responses` is taken as it is, with all its other columns. Any
    other is read as the format says that is named, or that its file's first row shows. Raises UserError
    where the file as a whole is no good.
    """
    one = one or OneFile()
    rows = _rows(path, form is not None and form.typed, one)
    try:
        if form is not None:
            yield from _formatted(rows, one.format(form, named=True), one)
            return
        for place, row in rows:
            if isinstance(row, RecordError):
                yield _at(place, row)
            elif _is_plain(row):
                yield _plain(place, row)
            else:
                form = one.format(_detected(place, row), named=False)
                yield from _formatted(chain([(place, row)], rows), form, one)
                return
    except FileError as error:
        raise UserError(f"{path}{error.place}: {error.message}") from error


def _rows(path: Path, typed: bool, one: OneFile) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        raise UserError(f"{path}: is a folder: name the files in it one by one")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    for place, row in read_rows(path, typed):
        if row is EMPTY_ROW:
            continue
        if not isinstance(row, (Mapping, RecordError)):
            row = RecordError("", "is not an object with columns")
        yield f"{path}{place}", one.less(row)


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
        _check_prompt(row)
        if not single:  # a table has the list as text
            row = {**row, "responses": listed(row["responses"], "responses")}
        responses = [row["response"]] if single else row["responses"]
        if not isinstance(responses, (list, tuple)) or not responses:
            raise RecordError("responses", "must be a list of texts, and not empty")
        records = []
        for i, response in enumerate(responses):
            try:
                asked = {"prompt": row["prompt"], TOOLS: row.get(TOOLS)}
                records.append(Demonstration.from_dict({**asked, "response": response}))
            except RecordError as error:
                field = f"responses[{i}]" if not single and error.field == "response" else error.field
                raise RecordError(field, error.message) from error
        texts = tuple(record.response for record in records)
        return ScoreItem(place, dict(row), records[0].prompt, texts, key)
    except RecordError as error:
        return _at(place, error)


def _check_prompt(row: Mapping[str, Any]) -> None:
    """Raise RecordError where a part of the prompt may stand beside it, and would not be read."""
    for name, value in row.items():
        if name not in ("prompt", TOOLS) and value and looks_like(name) == "a part of the prompt":
            answers = "response" if "response" in row else "responses"
            raise RecordError(
                name,
                "looks like a part of the prompt, and only `prompt` is read: say which column is what, as in "
                f"--columns '{{prompt: prompt, system: {name}, {answers}: {answers}}}' (without it there, it "
                "is not read)",
            )


def _detected(place: str, row: Mapping[str, Any]) -> Format:
    try:
        return detect(row)
    except UserError as error:
        raise UserError(
            f"{place}: {error} (`align score` takes them by --format and --columns. A row with `prompt` and "
            "`response` needs none.)"
        ) from error


def _formatted(
    rows: Iterator[tuple[str, Any]], format: Format, one: OneFile
) -> Iterator[ScoreItem | RecordError | LeftOut]:
    """Records as the format reads them, in the form of our own records."""
    for place, row in one.rows(format, rows):
        if isinstance(row, RecordError):
            yield _at(place, row)
            continue
        try:
            nothing = True
            for found in format.read(row):
                nothing = False
                yield found if isinstance(found, LeftOut) else _item(place, found)
            if nothing:
                yield LeftOut(f"no record in it, says {format.name}")
        except RecordError as error:
            yield _at(place, error)
    for place, refused in one.refused():
        yield _at(place, refused)


def _item(place: str, record: Record) -> ScoreItem:
    if isinstance(record, (Judged, Unranked)):
        row = Prompt(record.prompt).to_dict() | {"responses": list(record.responses)}
        return ScoreItem(place, row, record.prompt, record.responses, SCORES)
    row = record.to_dict()
    if isinstance(record, Demonstration):
        return ScoreItem(place, row, record.prompt, (record.response,), SCORE)
    if isinstance(record, Ranking):
        return ScoreItem(place, row, record.prompt, record.responses, SCORES)
    raise RecordError("", "holds a prompt without a response, and only responses have scores")
