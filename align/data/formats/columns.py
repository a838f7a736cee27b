"""A format from a `columns:` mapping in the recipe: which column holds which part of a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from align.data.formats.answers import Asked, asked, before_all, complete, is_conversation, said
from align.data.formats.base import Format, LeftOut, Record, Row, Unranked, as_number, label, make, never
from align.data.formats.long_tables import answers_of_group, grouped
from align.data.formats.orders import (
    UNRANKED,
    Gathered,
    Ranks,
    doubt_best,
    doubt_ranks,
    from_order,
    from_ranks,
    from_scores,
    ids_of,
    marked,
    settle_places,
)
from align.data.formats.paths import Cell, look_up, several, shown
from align.data.formats.verdicts import hear_all, ranks_of_verdict
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError

if TYPE_CHECKING:
    from align.recipe.columns import Columns

USED_AS = {  # what a column is used as, where the key's own name does not say it
    "responses": "response",
    "chosen": "best",
    "rejected": "worst",
    "ranks": "rank",
    "scores": "score",
    "ids": "id",
    "group_by": "group",
    "verdict.column": "verdict",
    "verdict.names": "name in the verdict",
    "verdict.best": "best",
    "verdict.worst": "worst",
}


def from_columns(columns: Columns | Mapping[str, Any]) -> Format:
    """A format that reads each part from its column.

    A column is named as it stands, or by a dotted path into objects and lists ("data.answers.0.text"); a
    path through a list without a number goes through all of it ("answers.text": every answer's text). What
    each key means: docs/custom-data.md. Raises UserError for a mapping that makes no record.
    """
    from align.recipe.load import read_columns  # it needs a library, which a known format does without

    mapping = read_columns(columns) if isinstance(columns, Mapping) else columns
    return Format(
        "columns",
        "the recipe's own mapping of columns",
        lambda row: _read(row, mapping),
        never,
        gather=_gather(mapping),
        columns=_roles(mapping),
    )


def _roles(columns: Columns) -> dict[str, str]:
    """What each column is used as; a dotted path is one of its first part too."""
    found: dict[str, list[str]] = {}
    for key, names in columns.named():
        role = USED_AS.get(key, key)
        for column in {part for name in names for part in (name, name.partition(".")[0])}:
            roles = found.setdefault(column, [])
            if role not in roles:
                roles.append(role)
    return {column: ", ".join(roles) for column, roles in found.items()}


def _gather(columns: Columns) -> Any:
    """What sees all rows of a file; None where each row can be read alone."""

    def ranked(row: Row) -> Ranks | None:
        try:
            found = _ranked(row, columns)
        except RecordError:
            return None  # the row's own reader says what is wrong
        return None if found is None or isinstance(found, LeftOut) else found[1]

    if columns.group_by is not None:
        names, marks = columns.names("group_by"), columns.names("scores") + columns.names("ranks")
        if columns.ranks is not None and columns.best is None:
            return lambda rows: doubt_best(columns, grouped(names, rows, marks), ranked)
        return lambda rows: grouped(names, rows, marks)
    if columns.order is not None and columns.ids is None and columns.places_from is None:
        return lambda rows: settle_places(columns, rows)
    if columns.ranks is not None and columns.best is None:
        return lambda rows: doubt_best(columns, doubt_ranks(columns, rows), ranked)
    verdict = columns.verdict
    if verdict is not None and verdict.column is not None:
        return lambda rows: hear_all(verdict, rows)
    if verdict is not None and columns.ids is None and columns.places_from is None:
        return lambda rows: settle_places(columns, rows)
    return None


def _read(row: Row, columns: Columns) -> Iterator[Record | LeftOut]:
    prompt, prompt_name = asked(row, columns)
    if columns.response is not None:
        name = columns.response
        answer = said(look_up(row, name), name, columns.messages)
        prompt, prompt_name = before_all(prompt, prompt_name, [answer])
        values = {"prompt": complete(row, columns, prompt), "response": answer.text}
        yield make(Demonstration, values, {"prompt": prompt_name, "response": name})
        return
    if columns.responses is not None and not columns.judged:
        yield _unranked(row, columns, prompt, prompt_name)
        return
    found = _ranked(row, columns)
    if found is None:
        if prompt is None:
            raise RecordError(prompt_name, "is null: there is no prompt")
        yield make(Prompt, {"prompt": complete(row, columns, prompt)}, {"prompt": prompt_name})
        return
    if isinstance(found, LeftOut):
        yield found
        return
    cells, ranks, strength = found
    there = [(cell, rank) for cell, rank in zip(cells, ranks, strict=True) if cell.value is not None]
    if there and all(rank is None for _, rank in there):
        yield LeftOut("a row without any rank")
        return
    answers = [said(cell.value, cell.name, columns.messages) for cell, _ in there]
    if answers:
        prompt, prompt_name = before_all(prompt, prompt_name, answers)
    names = {f"responses[{i}]": answer.name for i, answer in enumerate(answers)} | {
        "prompt": prompt_name,
        "responses": shown(columns.responses or columns.chosen or ""),
    }
    values = {
        "prompt": complete(row, columns, prompt or ""),
        "responses": [answer.text for answer in answers],
        "ranks": [rank for _, rank in there],
    }
    details: dict[str, Any] = {} if strength is None else {"strength": strength}
    if isinstance(row, Gathered) and row.mark is not None:
        details["labeler"] = row.mark
    yield make(Ranking, values | details | _details(row, columns), names)


def _unranked(row: Row, columns: Columns, prompt: Asked | None, prompt_name: str) -> Unranked:
    """The prompt, and the responses that are there."""
    cells = [cell for cell in several(row, columns.responses or "") if cell.value is not None]
    answers = [said(cell.value, cell.name, columns.messages) for cell in cells]
    if not answers:
        raise RecordError(shown(columns.responses or ""), "holds no response")
    prompt, prompt_name = before_all(prompt, prompt_name, answers)
    whole = complete(row, columns, prompt)
    texts = []
    for answer in answers:
        names = {"prompt": prompt_name, "response": answer.name}
        texts.append(make(Demonstration, {"prompt": whole, "response": answer.text}, names).response)
    return Unranked(make(Prompt, {"prompt": whole}, {"prompt": prompt_name}).prompt, tuple(texts))


def _ranked(row: Row, columns: Columns) -> tuple[list[Cell], Ranks, float | None] | LeftOut | None:
    """The responses, their ranks, and the strength that a verdict has; None where there are no responses."""
    if columns.group_by is not None:
        group = answers_of_group(row, columns)
        return group if isinstance(group, LeftOut) else (*group, None)
    if columns.chosen is not None and columns.rejected is not None:
        return (*_sides(row, columns), None)
    if columns.responses is None:
        return None
    answers = ids_of(row, several(row, columns.responses), columns.ids)
    if columns.verdict is not None:
        verdict = ranks_of_verdict(row, answers, columns.verdict, columns.places_from)
        return verdict if isinstance(verdict, LeftOut) else (answers, *verdict)
    if columns.order is not None:
        return answers, from_order(row, answers, columns), None
    what = "ranks" if columns.ranks is not None else "scores"
    marks = marked(row, answers, columns.ranks or columns.scores or "", what)
    kept = [(a, mark) for a, mark in zip(answers, marks, strict=True) if a.value is not None]
    read = from_ranks if columns.ranks is not None else from_scores
    return [answer for answer, _ in kept], read([mark for _, mark in kept], columns), None


def _sides(row: Row, columns: Columns) -> tuple[list[Cell], Ranks]:
    """What is chosen, at rank 1, and what is rejected, at rank 2."""
    found: list[tuple[Cell, int]] = []
    for rank, names in enumerate((columns.names("chosen"), columns.names("rejected")), 1):
        cells = _side(row, names, columns)
        if all(cell.value is None for cell in cells):
            raise RecordError(", ".join(names), "holds no response")
        found += [(cell, rank) for cell in cells]
    return [cell for cell, _ in found], [rank for _, rank in found]


def _side(row: Row, names: list[str], columns: Columns) -> list[Cell]:
    """The responses of a side: of each column its text, its messages, or each item of its list."""
    cells: list[Cell] = []
    for name in names:
        value = look_up(row, name)
        several_texts = isinstance(value, (list, tuple)) and not is_conversation(value, columns.messages)
        if several_texts:
            cells += [Cell(f"{name}[{i}]", None, item) for i, item in enumerate(value)]
        else:
            cells.append(Cell(name, name, value))
    return cells


def _details(row: Row, columns: Columns) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, name in columns.details.items():
        value = look_up(row, name)
        if value in UNRANKED:
            continue
        if key in ("strength", "seconds"):
            found[key] = as_number(value, name)
        else:
            found[key] = value if key == "shown_order" else label(value, name)
    return found
