"""Exports of labeling tools, where several people may have judged one task: Label Studio and Argilla."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from align.data.formats.base import (
    Format,
    Record,
    Row,
    comparison,
    items,
    label,
    list_of,
    number,
    optional_number,
    part,
    ranking,
    short,
    text,
)
from align.data.formats.conversations import is_conversation, turns
from align.records import Ranking, RecordError
from align.text import dotted

PROMPTS = ("prompt", "instruction", "question", "input", "context", "query", "chat", "conversation", "text")
ITEMS = ("items", "responses", "answers", "completions", "candidates")
UNPLACED = "_"  # Label Studio's list of what was put into no bucket


def _prompt(fields: Mapping[str, Any], at: str, answers: set[str]) -> tuple[Any, str]:
    """The prompt among a task's fields, and its name: a usual name, or the only text that is no answer."""
    free = {
        key: value
        for key, value in fields.items()
        if key not in answers and (isinstance(value, str) or is_conversation(value))
    }
    usual = [key for key in PROMPTS if key in free]
    if not usual and len(free) != 1:
        raise RecordError(at, f"has no prompt: name its field one of {', '.join(PROMPTS)}")
    key = usual[0] if usual else next(iter(free))
    value = free[key] if isinstance(free[key], str) else turns(fields, key)
    return value, f"{at}.{key}"


def _label_studio(row: Row) -> list[Record]:
    """One ranking for each ranker or pairwise result of each annotation that was not cancelled."""
    data = part(row, "data")
    if not isinstance(data, Mapping):
        raise RecordError("data", f"must be an object, not {short(data)}")
    found: list[Record] = []
    for i, annotation in enumerate(items(row, "annotations")):
        at = ("annotations", i)
        results = range(len(items(row, *at, "result")))
        if annotation.get("was_cancelled") is True:
            continue
        who = annotation.get("completed_by")
        if isinstance(who, Mapping):
            who = who.get("email") or who.get("id")
        optional = {
            "labeler": label(who, dotted((*at, "completed_by"))),
            "seconds": optional_number(annotation, "lead_time"),
        }
        for j in results:
            value = part(row, *at, "result", j, "value")
            if not isinstance(value, Mapping):
                raise RecordError(
                    dotted((*at, "result", j, "value")), f"must be an object, not {short(value)}"
                )
            if "ranker" in value:
                found.append(_ranked(row, value["ranker"], dotted((*at, "result", j)), optional))
            elif "selected" in value:
                found.append(_selected(row, (*at, "result", j), optional))
    return found


def _ranked(row: Row, ranker: Any, at: str, optional: dict[str, Any]) -> Ranking:
    """Ids best first, or buckets: the first bucket is best, a bucket's ids tie, the rest is unranked."""
    data = row["data"]
    names = [key for key in ITEMS if key in data] or [
        key for key in data if list_of(data, key, Mapping) and not is_conversation(data[key])
    ]
    if not names:
        raise RecordError("data", f"has no list of responses: name it one of {', '.join(ITEMS)}")
    listed = [(f"data.{names[0]}[{i}]", item) for i, item in enumerate(items(data, names[0]))]
    texts = {_id_of(item, i, where): _body(item, where) for i, (where, item) in enumerate(listed)}
    if len(texts) != len(listed):
        raise RecordError(f"data.{names[0]}", "holds one id twice")
    groups = _groups(ranker, f"{at}.value.ranker")
    rank_of: dict[str, int] = {}
    for rank, group in enumerate(groups, 1):
        for found in group:
            if found not in texts:
                raise RecordError(
                    f"{at}.value.ranker", f"ranks {short(found)}, which is not in data.{names[0]}"
                )
            if found in rank_of:
                raise RecordError(f"{at}.value.ranker", f"ranks {short(found)} twice")
            rank_of[found] = rank
    prompt, name = _prompt(data, "data", {names[0]})
    ranks = [rank_of.get(key) for key in texts]
    return ranking(prompt, list(texts.values()), ranks, name, [where for where, _ in listed], **optional)


def _groups(ranker: Any, at: str) -> list[list[str]]:
    """The ids in groups of equals, best first."""
    if not isinstance(ranker, Mapping):
        return [[found] for found in _ids(ranker, at)]
    buckets = {key: _ids(value, f"{at}.{key}") for key, value in ranker.items()}
    placed = [ids for key, ids in buckets.items() if key != UNPLACED]
    if len(buckets) == 1 and len(placed) == 1:  # no buckets: the one key is the ranker's name
        return [[found] for found in placed[0]]
    return [ids for ids in placed if ids]


def _ids(value: Any, at: str) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise RecordError(at, f"must be a list of ids, not {short(value)}")
    found = [label(part, f"{at}[{i}]") for i, part in enumerate(value)]
    if None in found:
        raise RecordError(at, "holds an empty id")
    return [key for key in found if key is not None]


def _id_of(item: Any, index: int, at: str) -> str:
    """An item's id; a plain text's is its place."""
    given = part(item, "id") if isinstance(item, Mapping) else index
    return label(given, f"{at}.id") or str(index)


def _body(item: Any, at: str) -> str:
    if isinstance(item, str):
        return item
    for key in ("body", "text", "response", "answer", "content", "html", "title"):
        if isinstance(item, Mapping) and isinstance(item.get(key), str) and item[key]:
            return str(item[key])
    raise RecordError(at, "has no text: put the response in `body`")


def _selected(row: Row, at: tuple[str | int, ...], optional: dict[str, Any]) -> Ranking:
    side = text(row, *at, "value", "selected")
    if side not in ("left", "right"):
        raise RecordError(dotted((*at, "value", "selected")), f"must be left or right, not {short(side)}")
    target = part(row, *at, "to_name")
    shown = (
        items(row, *at, "to_name") if not isinstance(target, str) else re.split(r"\s*,\s*", target.strip())
    )
    if len(shown) != 2 or not all(isinstance(key, str) for key in shown):
        raise RecordError(dotted((*at, "to_name")), "must name the left and the right element")
    names = [f"data.{key}" for key in shown]
    pair = (text(row, "data", shown[0]), text(row, "data", shown[1]))
    prompt, name = _prompt(row["data"], "data", set(shown))
    return comparison(prompt, pair, -1 if side == "left" else 1, name, (names[0], names[1]), **optional)


def _argilla(row: Row) -> list[Record]:
    """One ranking for each submitted response to a ranking question; drafts and discarded ones are not."""
    if "items" in row:
        return [
            found
            for i in range(len(items(row, "items")))
            for found in _inside(part(row, "items", i), f"items[{i}]")
        ]
    fields = part(row, "fields")
    if not isinstance(fields, Mapping):
        raise RecordError("fields", f"must be an object, not {short(fields)}")
    given: list[tuple[str, tuple[str | int, ...], str | None]] = []
    for i, response in enumerate(items(row, "responses")):
        if part(row, "responses", i, "status") != "submitted":
            continue
        values = part(row, "responses", i, "values")
        if not isinstance(values, Mapping):
            raise RecordError(f"responses[{i}].values", f"must be an object, not {short(values)}")
        who = label(response.get("user_id"), f"responses[{i}].user_id")
        for question, answer in values.items():
            at = ("responses", i, "values", question, "value")
            if isinstance(answer, Mapping) and list_of(answer, "value", Mapping):
                given.append((question, at, who))
    ranks = [(question, _options(row, fields, at), who) for question, at, who in given]
    found: list[Record] = []
    for question, one, who in ranks:
        named = {option for other, options, _ in ranks if other == question for option in options}
        shown = [option for option in fields if option in named]  # the same for everybody
        prompt, name = _prompt(fields, "fields", named)
        names = [f"fields.{option}" for option in shown]
        texts = [fields[option] for option in shown]
        found.append(ranking(prompt, texts, [one.get(key) for key in shown], name, names, labeler=who))
    return found


def _inside(record: Any, at: str) -> list[Record]:
    try:
        if not isinstance(record, Mapping) or "items" in record:
            raise RecordError("", "must be a record with fields and responses")
        return _argilla(record)
    except RecordError as error:
        raise RecordError(f"{at}.{error.field}".rstrip("."), error.message) from None


def _options(row: Row, fields: Mapping[str, Any], at: tuple[str | int, ...]) -> dict[str, int | None]:
    """The ranks of a ranking question's options, each the name of the field that holds the response."""
    ranks: dict[str, int | None] = {}
    for i in range(len(items(row, *at))):
        option = text(row, *at, i, "value")
        if not isinstance(fields.get(option), str):
            raise RecordError(
                dotted((*at, i, "value")), f"is {short(option)}, which is no text among the record's fields"
            )
        if option in ranks:
            raise RecordError(dotted((*at, i, "value")), f"ranks {short(option)} twice")
        ranks[option] = _rank(row, *at, i)
    return ranks


def _rank(row: Row, *at: str | int) -> int | None:
    if part(row, *at).get("rank") is None:
        return None
    value = number(row, *at, "rank")
    if value < 1 or value != int(value):
        raise RecordError(
            dotted((*at, "rank")), f"must be a whole number from 1, the best, up, not {short(value)}"
        )
    return int(value)


def _detect_argilla(row: Row) -> bool:
    inside = row["items"][0] if list_of(row, "items", Mapping) and "data" not in row else row
    return isinstance(inside.get("fields"), Mapping) and isinstance(inside.get("responses"), (list, tuple))


TOOL_FORMATS = (
    Format(
        "label-studio",
        "ranker: ids best first, or buckets, the first best; pairwise: left or right; a ranking a person",
        _label_studio,
        lambda row: (
            isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), (list, tuple))
        ),
    ),
    Format(
        "argilla",
        "REST records: submitted `responses` with `rank` (1 is best) of each option; a ranking a person",
        _argilla,
        _detect_argilla,
    ),
)
