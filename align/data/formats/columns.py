"""A format from a `columns:` mapping in the recipe: which column holds which part of a record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from align.data.formats.base import Format, Record, Row, as_number, label, make, never, ranks_of, short
from align.data.formats.conversations import is_conversation, turns
from align.errors import UserError
from align.records import Demonstration, Prompt, Ranking, RecordError

ColumnNames = Mapping[str, str | Sequence[str]]
DETAILS = ("labeler", "strength", "guideline", "shown_order", "seconds", "source")
TARGETS = ("prompt", "response", "responses", "ranks", "scores", "chosen", "rejected", *DETAILS)
SEVERAL = ("prompt", "responses", "ranks", "scores", "chosen", "rejected")  # may be a list of columns
SHAPES = (
    ("prompt",),
    ("prompt", "response"),
    ("prompt", "chosen", "rejected"),
    ("prompt", "responses", "ranks"),
    ("prompt", "responses", "scores"),
)
UNRANKED = (None, "")


def from_columns(columns: ColumnNames) -> Format:
    """A format that reads each part from its column.

    A column is named as it stands, or by a dotted path into objects and lists ("data.answers.0.text"); a
    path through a list without a number goes through all of it ("answers.text": every answer's text).
    `prompt` may name several columns, which follow each other after blank lines. `responses`, `ranks`,
    `scores`, `chosen` and `rejected` name a column that holds a list, or several columns; a null response is
    left out.
    Ranks: 1 is best; scores: more is better; null is unranked. Raises UserError for a mapping that makes no
    record.
    """
    _check(columns)

    def read(row: Row) -> list[Record]:
        prompt, prompt_name = _prompt(row, columns["prompt"])
        if "response" in columns:
            name = str(columns["response"])
            values = {"prompt": prompt, "response": look_up(row, name)}
            return [make(Demonstration, values, {"prompt": prompt_name, "response": name})]
        if set(columns) == {"prompt"}:
            return [make(Prompt, {"prompt": prompt}, {"prompt": prompt_name})]
        answers = _ranked(row, columns)
        names = {f"responses[{i}]": name for i, (name, _, _) in enumerate(answers)} | {"prompt": prompt_name}
        values = {
            "prompt": prompt,
            "responses": [answer for _, answer, _ in answers],
            "ranks": [rank for _, _, rank in answers],
        }
        return [make(Ranking, values | _details(row, columns), names)]

    return Format("columns", "the recipe's own mapping of columns", read, never)


def _check(columns: ColumnNames) -> None:
    for target, source in columns.items():
        if target not in TARGETS:
            near = get_close_matches(str(target).lower(), TARGETS, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise UserError(
                f"columns: `{target}` is no part of a record; {hint}There are {', '.join(TARGETS)}."
            )
        texts = [source] if isinstance(source, str) else list(source)
        if not texts or not all(isinstance(name, str) and name for name in texts):
            raise UserError(f"columns.{target}: name the column that holds it.")
        if not isinstance(source, str) and target not in SEVERAL:
            raise UserError(f"columns.{target}: takes one column, not a list.")
    main = {target for target in columns if target not in DETAILS}
    details = [target for target in columns if target in DETAILS]
    if not any(main == set(shape) for shape in SHAPES):
        forms = "; ".join(" + ".join(shape) for shape in SHAPES)
        raise UserError(
            f"columns: {', '.join(sorted(main)) or 'nothing'} makes no record. Map one of these: {forms}."
        )
    if details and len(main) < 3:
        raise UserError(f"columns.{details[0]}: only rankings have it, and this mapping makes none.")


def look_up(row: Row, path: str) -> Any:
    """A column's value, by its name or by a dotted path; raises RecordError that names what is there."""
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
            return [look_up(part if isinstance(part, Mapping) else {}, rest) for part in value]
        else:
            there = ", ".join(short(str(name)) for name in list(value)[:20]) if i == 0 else ""
            raise RecordError(path, "is missing" + (f"; the columns are {there}" if there else ""))
    return value


def _prompt(row: Row, source: str | Sequence[str]) -> tuple[Any, str]:
    if isinstance(source, str):
        value = look_up(row, source)
        return (turns({source: value}, source) if is_conversation(value) else value), source
    texts = []
    for name in source:
        value = look_up(row, name)
        if value is not None and not isinstance(value, str):
            raise RecordError(name, f"must be text, not {short(value)}: only texts can be put together")
        texts.append(value or "")
    return "\n\n".join(part for part in texts if part.strip()), source[0]


def _ranked(row: Row, columns: ColumnNames) -> list[tuple[str, Any, int | None]]:
    """(column, response, rank) of each response that is there."""
    if "chosen" in columns:
        sides = [_several(row, columns["chosen"]), _several(row, columns["rejected"])]
        for key, side in zip(("chosen", "rejected"), sides, strict=True):
            if all(answer is None for _, answer in side):
                raise RecordError(str(columns[key]), "holds no response")
        pairs = [(name, answer, rank) for rank, side in enumerate(sides, 1) for name, answer in side]
        return [pair for pair in pairs if pair[1] is not None]
    answers = _several(row, columns["responses"])
    by_rank = "ranks" in columns
    judged = _several(row, columns["ranks" if by_rank else "scores"])
    if len(answers) != len(judged):
        what = "ranks" if by_rank else "scores"
        raise RecordError(
            _shown(columns[what]), f"has {len(judged)} {what}, and there are {len(answers)} responses"
        )
    kept = [(*answer, *mark) for answer, mark in zip(answers, judged, strict=True) if answer[1] is not None]
    if by_rank:
        ranks = [_rank(value, field) for _, _, field, value in kept]
    else:
        ranks = ranks_of([None if v in UNRANKED else as_number(v, field) for _, _, field, v in kept])
    return [(name, answer, rank) for (name, answer, _, _), rank in zip(kept, ranks, strict=True)]


def _rank(value: Any, field: str) -> int | None:
    if value in UNRANKED:
        return None
    number = as_number(value, field)
    if number < 1 or number != int(number):
        raise RecordError(field, f"must be a whole number from 1, the best, up, not {short(value)}")
    return int(number)


def _several(row: Row, source: str | Sequence[str]) -> list[tuple[str, Any]]:
    """(name, value) of each of several columns, or of each item of a column that holds a list."""
    if not isinstance(source, str):
        return [(name, look_up(row, name)) for name in source]
    value = look_up(row, source)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)  # a table holds a list as text
        except (ValueError, RecursionError) as error:
            raise RecordError(source, f"begins like a list, and is not JSON: {error}"[:200]) from None
    if isinstance(value, (list, tuple)):
        return [(f"{source}[{i}]", part) for i, part in enumerate(value)]
    return [(source, value)]


def _shown(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else ", ".join(source)


def _details(row: Row, columns: ColumnNames) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for target in DETAILS:
        if target not in columns:
            continue
        name = str(columns[target])
        value = look_up(row, name)
        if value in UNRANKED:
            continue
        if target in ("strength", "seconds"):
            found[target] = as_number(value, name)
        elif target == "shown_order":
            found[target] = value
        else:
            found[target] = label(value, name)
    return found
