"""Argilla's records, of its REST interface, its `to_json` and its data sets: a ranking a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from align.data.formats.base import (
    Format,
    LeftOut,
    Placed,
    Record,
    Row,
    items,
    label,
    list_of,
    number,
    part,
    ranking,
    short,
    text,
    unused,
)
from align.data.formats.tools import ToolColumns, check_columns, prompt_of
from align.errors import UserError
from align.text import dotted
from align.values import RecordError

Path = tuple[str | int, ...]
FIXED_ORDER = 10  # rankings of one question that all name the options in one order: nobody's opinion
RESPONSES, USERS, STATUS = ".responses", ".responses.users", ".responses.status"  # of a question, flat
# Names, times, and what models (not people) said.
KNOWN = {
    **unused("id _server_id external_id metadata suggestions vectors inserted_at updated_at dataset_id"),
    **unused("query_score total"),
}
NO_FIELDS = {*KNOWN, "status", "score"}  # what a flat record has beside its fields and answers


@dataclass(frozen=True)
class _Answer:
    """What somebody answered to a question, and where that stands."""

    question: str
    at: Path
    who: str | None


Answered = tuple[Row, str, list["_Answer | LeftOut"]]  # fields, where they stand, what was answered


def argilla(columns: ToolColumns | None = None) -> Format:
    """The format of nested records; `columns` says which fields are the prompt. Raises UserError."""
    check_columns(columns, "argilla", ("prompt",))
    return Format(
        "argilla",
        "REST or `to_json` records: ranking questions, 1 or the first is best; a ranking a person",
        lambda row: _nested(row, columns),
        _detect,
        _by_order,
        columns={
            "fields": "prompt and responses",
            "responses": "ranks, labeler",
            "items": "records",
            "status": "whether an answer was submitted",
            **KNOWN,
        },
    )


def argilla_flat(columns: ToolColumns | None = None) -> Format:
    """The same of flat records: `to_datasets`, `to_list(flatten=True)`, and version 1's data sets."""
    check_columns(columns, "argilla-flat", ("prompt",))
    return Format(
        "argilla-flat",
        "Argilla's records as a table, a ranking question's answers in its own columns; a ranking a person",
        lambda row: _rankings(row, *_flat_answered(row), columns),
        _detect_flat,
        _by_order,
    )


def _nested(row: Row, columns: ToolColumns | None) -> Iterator[Record | LeftOut]:
    if "items" not in row:
        yield from _rankings(row, *_answered(row), columns)
        return
    if not items(row, "items"):
        yield LeftOut("a page of an export without any record")
    for i in range(len(items(row, "items"))):
        try:
            record = part(row, "items", i)
            if not isinstance(record, Mapping) or "items" in record:
                raise RecordError("", "must be a record with fields and responses")
            yield from _rankings(record, *_answered(record), columns)
        except RecordError as error:
            raise RecordError(f"items[{i}].{error.field}".rstrip("."), error.message) from None


def _answered(row: Row) -> Answered:
    """A nested record's fields, where they stand, and what was answered."""
    fields = part(row, "fields")
    if not isinstance(fields, Mapping):
        raise RecordError("fields", f"must be an object, not {short(fields)}")
    found = _by_question(row) if isinstance(part(row, "responses"), Mapping) else _by_person(row)
    return fields, "fields", list(found)


def _by_person(row: Row) -> Iterator[_Answer | LeftOut]:
    """`responses[]`: what a person answered, by question."""
    for i in range(len(items(row, "responses"))):
        status = part(row, "responses", i, "status")
        if status != "submitted":
            yield _not_submitted(status)
            continue
        values = part(row, "responses", i, "values")
        if not isinstance(values, Mapping):
            raise RecordError(f"responses[{i}].values", f"must be an object, not {short(values)}")
        who = label(part(row, "responses", i).get("user_id"), f"responses[{i}].user_id")
        for question in values:
            part(row, "responses", i, "values", question, "value")
            yield _Answer(question, ("responses", i, "values", question, "value"), who)


def _by_question(row: Row) -> Iterator[_Answer | LeftOut]:
    """`responses{}`: the answers to each question."""
    for question in row["responses"]:
        yield from _answers(row, question, ("responses", question))


def _answers(row: Row, question: str, path: Path) -> Iterator[_Answer | LeftOut]:
    """`[{value, user_id, status}]` at `path`; without a status the record's own must not be pending."""
    for i in range(len(items(row, *path))):
        part(row, *path, i, "value")
        answer = part(row, *path, i)
        if answer.get("status") not in (None, "submitted"):
            yield _not_submitted(answer["status"])
        elif answer.get("status") is None and row.get("status") == "pending":
            yield PENDING
        else:
            who = label(answer.get("user_id"), dotted((*path, i, "user_id")))
            yield _Answer(question, (*path, i, "value"), who)


PENDING = LeftOut("an answer that does not say whether it was submitted, of a record that is pending")


def _not_submitted(status: Any) -> LeftOut:
    known = status if status in ("draft", "discarded") else "not submitted"
    return LeftOut(f"an answer that is {'a draft' if known == 'draft' else known}")


def _flat_answered(row: Row) -> Answered:
    """The same of a flat record: its fields are what neither belongs to a question nor is known."""
    found: list[_Answer | LeftOut] = []
    taken = set(NO_FIELDS)
    columns = [key for key in row if isinstance(key, str)]
    for key in columns:
        question = key.removesuffix(RESPONSES)
        if key.endswith(RESPONSES) and f"{question}{USERS}" in row:
            taken |= {other for other in columns if other.startswith((key, f"{question}.suggestion"))}
            found += [] if row[key] is None else _columns_of(row, question)
        elif _first_version(row[key]):
            taken |= {key, *(other for other in columns if other.startswith(f"{key}-suggestion"))}
            found += _answers(row, key, (key,))
    return {key: value for key, value in row.items() if key not in taken}, "", found


def _columns_of(row: Row, question: str) -> Iterator[_Answer | LeftOut]:
    """A question's answers, their people and their states in three lists."""
    count = len(items(row, question + RESPONSES))
    people, states = (_beside(row, question + name, count) for name in (USERS, STATUS))
    for i, (who, status) in enumerate(zip(people, states, strict=True)):
        if status not in (None, "submitted"):
            yield _not_submitted(status)
        elif status is None and row.get("status") == "pending":
            yield PENDING
        else:
            at = (question + RESPONSES, i)
            yield _Answer(question, at, label(who, f"{question}{USERS}[{i}]"))


def _beside(row: Row, key: str, count: int) -> list[Any]:
    if row.get(key) is None:
        return [None] * count
    values = items(row, key)
    if len(values) != count:
        raise RecordError(key, f"has {len(values)} items, and there are {count} answers")
    return values


def _first_version(value: Any) -> bool:
    """Whether a column holds a question's answers as version 1 wrote them into a data set."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(
            isinstance(answer, Mapping) and {"user_id", "value", "status"} <= set(answer) for answer in value
        )
    )


def _rankings(
    row: Row, fields: Row, at: str, found: list[_Answer | LeftOut], columns: ToolColumns | None
) -> Iterator[Record | LeftOut]:
    """One ranking for each answer to a ranking question."""
    if not found:
        yield LeftOut("a record that nobody has answered")
    orders: list[tuple[_Answer, dict[str, int | None]]] = []
    for answer in found:
        if isinstance(answer, LeftOut):
            yield answer
            continue
        ranks = _ranks(row, fields, answer.at)
        if ranks is None:
            yield LeftOut(f"an answer to `{answer.question[:40]}`, which ranks none of the fields")
        elif len(ranks) < 2 or not any(ranks.values()):
            yield LeftOut(f"an answer to `{answer.question[:40]}` that ranks fewer than two fields")
        else:
            orders.append((answer, ranks))
    for answer, ranks in orders:
        named = {key for other, keys in orders if other.question == answer.question for key in keys}
        shown = [option for option in fields if option in named]  # the same for everybody
        prompt, name = prompt_of(fields, at, named, columns)
        names = [dotted((at, option) if at else (option,)) for option in shown]
        texts = [fields[option] for option in shown]
        yield ranking(prompt, texts, [ranks.get(key) for key in shown], name, names, labeler=answer.who)


def _ranks(row: Row, fields: Row, at: Path) -> dict[str, int | None] | None:
    """The ranks of an answer's options, each the name of a field; None where it is no ranking."""
    options = _options(row, at)
    if _only_names(part(row, *at)) and not any(option in fields for _, option, _ in options):
        return None
    ranks: dict[str, int | None] = {}
    for where, option, rank in options:
        if not isinstance(fields.get(option), str):
            raise RecordError(where, f"is {short(option)}, which is no text among the record's fields")
        if option in ranks:
            raise RecordError(where, f"ranks {short(option)} twice")
        ranks[option] = rank
    return ranks or None


def _options(row: Row, at: Path) -> list[tuple[str, str, int | None]]:
    """(where, option, rank) of each form in which Argilla writes a ranking; none of other answers.

    Names best first, where those in an inner list tie; objects with value and rank; an object with a list
    of each.
    """
    value = part(row, *at)
    if isinstance(value, Mapping) and {"rank", "value"} <= set(value):
        names, ranks = items(row, *at, "value"), items(row, *at, "rank")
        if len(names) != len(ranks):
            raise RecordError(dotted((*at, "rank")), f"must have {len(names)} items, as `value` has")
        paths: list[tuple[Path, Path]] = [((*at, "value", i), (*at, "rank", i)) for i in range(len(names))]
        return [(dotted(name), text(row, *name), _rank(row, *rank)) for name, rank in paths]
    if _only_names(value):
        groups = [option if isinstance(option, (list, tuple)) else [option] for option in value]
        return [
            (dotted((*at, rank - 1)), option, rank)
            for rank, group in enumerate(groups, 1)
            for option in group
        ]
    if list_of({"": value}, "", Mapping) and all("value" in option for option in value):
        places = [(*at, i) for i in range(len(value))]
        return [
            (
                dotted((*place, "value")),
                text(row, *place, "value"),
                _rank(row, *place, "rank") if "rank" in part(row, *place) else None,
            )
            for place in places
        ]
    return []


def _only_names(value: Any) -> bool:
    """Whether an answer is a list of names, or of lists of them."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(
            isinstance(name, str)
            for option in value
            for name in (option if isinstance(option, (list, tuple)) else [option])
        )
    )


def _rank(row: Row, *at: str | int) -> int | None:
    if part(row, *at) is None:
        return None
    value = number(row, *at)
    if value < 1 or value != int(value):
        raise RecordError(dotted(at), f"must be a whole number from 1, the best, up, not {short(value)}")
    return int(value)


@dataclass
class _Named:
    """The orders in which a question's answers name the options, as long as there is one; and how many."""

    first: list[Any]
    count: int = 0
    one_order: bool = True
    one_choice: bool = True

    def add(self, names: list[Any]) -> None:
        self.count += 1
        self.one_order = self.one_order and names == self.first
        self.one_choice = self.one_choice and _flattened(names) == _flattened(self.first)


def _flattened(names: list[Any]) -> set[str]:
    return {name for part in names for name in (part if isinstance(part, (list, tuple)) else [part])}


def _by_order(rows: Iterator[Placed]) -> Iterator[Placed]:
    """The rows as they are; at the end, whether the order in lists of names can be what people said."""
    questions: dict[str, _Named] = {}
    for place, row in rows:
        for question, names in _name_lists(row):
            questions.setdefault(question, _Named(names)).add(names)
        yield place, row
    for question, said in questions.items():
        if not said.one_choice:
            raise UserError(
                f"`{question}` names other fields in one answer than in another: it chooses some of them and "
                "ranks none. Take it out of the export."
            )
        if said.one_order and said.count >= FIXED_ORDER:
            raise UserError(
                f"all {said.count:,} answers to `{question}` name the fields in the same order "
                f"({', '.join(map(str, said.first))}). Argilla's Python client is known to write them so, as "
                "they were shown and whatever people said, when it loses the ranks. Take the records from "
                "the REST interface: the answers there have ranks."
            )


def _name_lists(row: Row) -> Iterator[tuple[str, list[Any]]]:
    """(question, names) of each answer that lists fields; what is wrong is the reader's to say."""
    try:
        records = items(row, "items") if "items" in row else [row]
        for record in (record for record in records if isinstance(record, Mapping)):
            fields, _, found = (_answered if "fields" in record else _flat_answered)(record)
            for answer in (answer for answer in found if isinstance(answer, _Answer)):
                value = part(record, *answer.at)
                if _only_names(value) and any(name in fields for name in _flattened(value)):
                    yield answer.question, list(value)
    except (RecordError, TypeError):
        return


def _detect(row: Row) -> bool:
    inside = row["items"][0] if list_of(row, "items", Mapping) and "data" not in row else row
    return isinstance(inside.get("fields"), Mapping) and isinstance(
        inside.get("responses"), (list, tuple, Mapping)
    )


def _detect_flat(row: Row) -> bool:
    return "fields" not in row and any(
        (key.endswith(RESPONSES) and f"{key.removesuffix(RESPONSES)}{USERS}" in row) or _first_version(value)
        for key, value in row.items()
    )
