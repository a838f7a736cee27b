"""Label Studio's JSON export, where several people may have judged one task: rankers, buckets, pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.data.formats.base import (
    Format,
    LeftOut,
    Placed,
    Record,
    Row,
    comparison,
    items,
    label,
    list_of,
    optional_number,
    part,
    ranking,
    short,
    text,
    unused,
)
from align.data.formats.conversations import is_conversation
from align.data.formats.tools import ToolColumns, check_columns, field_of, prompt_of
from align.errors import UserError
from align.text import dotted
from align.values import RecordError

ITEMS = ("items", "responses", "answers", "completions", "candidates")
UNPLACED = "_"  # the ranker's own list, of what was put into no bucket
MINIMAL = {"annotator", "annotation_id", "lead_time"}  # JSON-MIN and CSV have them beside the data
Path = tuple[str | int, ...]


def label_studio(buckets: Sequence[str] | None = None, columns: ToolColumns | None = None) -> Format:
    """The format; `buckets`: the names of a ranker's buckets, best first, for JSON keeps no order of them.

    `columns` says which of the task's data are the prompt, and the responses: the list that is ranked, or
    what stands left and right. Raises UserError.
    """
    check_columns(columns, "label-studio", ("prompt", "responses"))
    if buckets is not None and len(set(buckets)) < len(buckets):
        raise UserError("buckets: names one bucket twice.")
    how = _How(buckets, columns or {})
    return Format(
        "label-studio",
        "ranker: ids best first, or buckets as the recipe orders them; pairwise: left or right; by person",
        lambda row: _read(row, how),
        _detect,
        _by_buckets(buckets),
        columns={
            "data": "prompt and responses",
            "annotations": "order, labeler, seconds",
            # Names, times, counts, and what models (not people) said.
            **unused(
                "id inner_id project predictions drafts file_upload meta created_at updated_at updated_by"
            ),
            **unused(
                "overlap is_labeled total_annotations cancelled_annotations total_predictions agreement"
            ),
            **unused(
                "comment_count unresolved_comment_count comment_authors last_comment_updated_at allow_skip"
            ),
        },
        unread=lambda row: _unread(row, how.columns),
    )


@dataclass(frozen=True)
class _How:
    """The recipe's say: the buckets' order, and which data are what."""

    buckets: Sequence[str] | None
    columns: ToolColumns


def _detect(row: Row) -> bool:
    whole = isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), (list, tuple))
    return whole or (set(row) >= MINIMAL and "data" not in row)


def _read(row: Row, how: _How) -> Iterator[Record | LeftOut]:
    """A ranking for each ranker or pairwise result of each annotation that was not cancelled."""
    if "annotations" not in row and set(row) >= MINIMAL:
        raise RecordError(
            "",
            "is of Label Studio's short export (JSON-MIN or CSV), which does not say what was shown where: "
            "export as JSON",
        )
    data = part(row, "data")
    if not isinstance(data, Mapping):
        raise RecordError("data", f"must be an object, not {short(data)}")
    annotations = items(row, "annotations")
    if not annotations:
        yield LeftOut("a task that nobody has annotated")
    for i, annotation in enumerate(annotations):
        at: Path = ("annotations", i)
        results = range(len(items(row, *at, "result")))
        if annotation.get("was_cancelled") is True:
            yield LeftOut("a cancelled annotation")
            continue
        if not results:
            yield LeftOut("an annotation without a result")
        who = annotation.get("completed_by")
        if isinstance(who, Mapping):
            who = who.get("email") or who.get("id")
        optional = {
            "labeler": label(who, dotted((*at, "completed_by"))),
            "seconds": optional_number(annotation, "lead_time"),
        }
        for j in results:
            yield _result(row, (*at, "result", j), how, optional)


def _unread(row: Row, columns: ToolColumns) -> dict[str, Any]:
    """The task's data that are neither the prompt nor answers; none where a row's own error will say more."""
    data = row.get("data")
    if not isinstance(data, Mapping):
        return {}
    used = {name for names in columns.values() for name in ([names] if isinstance(names, str) else names)}
    if "responses" not in columns:
        used |= {key for key in data if key in ITEMS or list_of(data, key, Mapping)}
        used |= {name for annotation in _mappings(row.get("annotations")) for name in _shown(annotation)}
        if not used & set(data):
            return {}  # nobody has judged anything
    if "prompt" not in columns:
        try:
            used.add(prompt_of(data, "data", used)[1].removeprefix("data."))
        except RecordError:
            return {}
    return {f"data.{key}": value for key, value in data.items() if key not in used}


def _shown(annotation: Mapping[str, Any]) -> list[str]:
    """The names of the elements that an annotation's results are of."""
    targets = [result.get("to_name") for result in _mappings(annotation.get("result"))]
    return [
        str(name) for names in targets for name in (_parted(names) if isinstance(names, str) else names or ())
    ]


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, (list, tuple)) else []


def _parted(names: str) -> list[str]:
    return re.split(r"\s*,\s*", names.strip())


def _result(row: Row, at: Path, how: _How, optional: dict[str, Any]) -> Record | LeftOut:
    value = part(row, *at, "value")
    if not isinstance(value, Mapping):
        raise RecordError(dotted((*at, "value")), f"must be an object, not {short(value)}")
    kind = part(row, *at).get("type")
    if kind == "ranker" or (kind is None and "ranker" in value):
        return _ranked(row, at, how, optional)
    if kind == "pairwise" or (kind is None and "selected" in value):
        return _selected(row, at, how, optional)
    shown = kind if isinstance(kind, str) else ", ".join(str(key) for key in list(value)[:3])
    return LeftOut(f"an annotation of type {shown[:40]}")


def _ranked(row: Row, at: Path, how: _How, optional: dict[str, Any]) -> Record | LeftOut:
    """Ids best first, or buckets in the recipe's order: a bucket's ids tie."""
    where = dotted((*at, "value", "ranker"))
    name, texts = _listed(row["data"], how.columns)
    if len(texts) < 2:
        return LeftOut("a task with fewer than two responses")
    groups = _groups(part(row, *at), where, how.buckets, texts)
    rank_of: dict[str, int] = {}
    for rank, group in groups:
        for found in group:
            if found not in texts:
                raise RecordError(where, f"ranks {short(found)}, which is not in {name}")
            if found in rank_of:
                raise RecordError(where, f"ranks {short(found)} twice")
            rank_of[found] = rank
    ranks = [rank_of.get(key) or None for key in texts]  # 0: seen, and unranked
    if not any(ranks):
        return LeftOut("a ranker in which nothing was placed")
    prompt, prompt_name = prompt_of(row["data"], "data", {name.removeprefix("data.")}, how.columns)
    names = [f"{name}[{i}]" for i in range(len(texts))]
    return ranking(prompt, list(texts.values()), ranks, prompt_name, names, **optional)


def _listed(data: Mapping[str, Any], columns: ToolColumns) -> tuple[str, dict[str, str]]:
    """The name of the list that was ranked, and each response by its id."""
    if "responses" in columns:
        name = columns["responses"]
        name = name if isinstance(name, str) else ", ".join(name)
        field_of(data, "data", name)
    else:
        names = [key for key in ITEMS if key in data] or [
            key for key in data if list_of(data, key, Mapping) and not is_conversation(data[key])
        ]
        if len(names) != 1:
            there = ", ".join(names or [str(key) for key in data])
            raise RecordError(
                "data",
                f"has {'several lists' if names else 'no list'} of responses ({there}): say which it is by "
                "`columns: {responses: …}` beside `format: label-studio`",
            )
        name = names[0]
    listed = [(f"data.{name}[{i}]", item) for i, item in enumerate(items(data, name))]
    texts = {_id_of(item, i, where): _body(item, where) for i, (where, item) in enumerate(listed)}
    if len(texts) != len(listed):
        raise RecordError(f"data.{name}", "holds one id twice")
    return f"data.{name}", texts


def _groups(
    result: Mapping[str, Any], at: str, order: Sequence[str] | None, texts: Mapping[str, str]
) -> list[tuple[int, list[str]]]:
    """(rank, ids) of equals; rank 0 for what is unranked."""
    ranker = result["value"].get("ranker")
    if not isinstance(ranker, Mapping):
        return [(i, [found]) for i, found in enumerate(_ids(ranker, at), 1)]
    lists = {str(key): _ids(value, f"{at}.{key}") for key, value in ranker.items()}
    buckets = _buckets(result, order)
    if not buckets:
        return [(i, [found]) for ids in lists.values() for i, found in enumerate(ids, 1)]
    if order is None:
        raise RecordError(at, f"has buckets ({', '.join(buckets)}), {NO_ORDER}")
    unknown = [name for name in buckets if name not in order and name != UNPLACED]
    if unknown:
        raise RecordError(
            at, f"has the bucket {short(unknown[0])}, which `buckets: [{', '.join(order)}]` does not name"
        )
    placed = {found for ids in lists.values() for found in ids}
    lists[UNPLACED] = lists.get(UNPLACED, []) + [key for key in texts if key not in placed]
    ranks = {name: rank for rank, name in enumerate(order, 1)}
    return [(ranks.get(name, 0), ids) for name, ids in lists.items()]


NO_ORDER = (
    "and JSON keeps no order of them: name them in the recipe's entry, best first, by "
    f"`buckets: [best, …, worst]` (`{UNPLACED}` is what was placed nowhere: unranked where it is not named)"
)


def _buckets(result: Mapping[str, Any], order: Sequence[str] | None) -> list[str]:
    """The buckets of a ranker's result; none where it is an order.

    Without buckets the one list has the ranker's own name. One list with another name is a bucket: the only
    one that holds anything.
    """
    ranker = result["value"].get("ranker")
    if not isinstance(ranker, Mapping):
        return []
    names = [str(key) for key in ranker]
    return [] if names == [result.get("from_name")] and names[0] not in (order or ()) else names


def _by_buckets(order: Sequence[str] | None) -> Callable[[Iterator[Placed]], Iterator[Placed]]:
    """The rows as they are; at the end, what their buckets lack in the recipe, or the recipe's in them."""

    def gather(rows: Iterator[Placed]) -> Iterator[Placed]:
        seen: dict[str, None] = {}
        for place, row in rows:
            found = list(_buckets_in(row, order))
            seen |= dict.fromkeys(found)
            if not found or order is not None:
                yield place, row
        if order is None and seen:
            raise UserError(f"its rankers have the buckets {', '.join(sorted(seen))}, {NO_ORDER}")
        missing = [name for name in order or () if name not in seen]
        if missing:
            there = f"its buckets are {', '.join(sorted(seen))}" if seen else "it has no buckets"
            raise UserError(f"`buckets` names {short(missing[0])}, and no ranker here has it: {there}")

    return gather


def _buckets_in(row: Row, order: Sequence[str] | None) -> Iterator[str]:
    """The buckets that a row's annotations use; what is wrong with the row is the reader's to say."""
    annotations = row.get("annotations")
    for annotation in annotations if isinstance(annotations, (list, tuple)) else ():
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled") is True:
            continue
        results = annotation.get("result")
        for result in results if isinstance(results, (list, tuple)) else ():
            if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping):
                found = _buckets(result, order)
                yield from found
                if found and order is not None:
                    yield UNPLACED  # what is in no list


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


def _selected(row: Row, at: Path, how: _How, optional: dict[str, Any]) -> Record:
    side = text(row, *at, "value", "selected")
    if side not in ("left", "right"):
        raise RecordError(dotted((*at, "value", "selected")), f"must be left or right, not {short(side)}")
    left, right = _sides(row, at, how.columns)
    pair = (text(row, "data", left), text(row, "data", right))
    prompt, name = prompt_of(row["data"], "data", {left, right}, how.columns)
    names = (f"data.{left}", f"data.{right}")
    return comparison(prompt, pair, -1 if side == "left" else 1, name, names, **optional)


def _sides(row: Row, at: Path, columns: ToolColumns) -> list[str]:
    """Which data stood left and right: what the recipe says, or those by the names of the two elements."""
    data = row["data"]
    if "responses" in columns:
        shown = columns["responses"]
        if isinstance(shown, str) or len(shown) != 2:
            raise RecordError(
                dotted(at),
                "compares two: name them by `columns: {responses: [left, right]}`, the left one first",
            )
        for key in shown:
            field_of(data, "data", key)
        return list(shown)
    target = part(row, *at, "to_name")
    where = dotted((*at, "to_name"))
    names = items(row, *at, "to_name") if not isinstance(target, str) else _parted(target)
    if len(names) != 2 or not all(isinstance(key, str) for key in names):
        raise RecordError(where, "must name the left and the right element")
    if not all(key in data for key in names):
        there = ", ".join(str(key) for key in list(data)[:20])
        raise RecordError(
            where,
            f"names the elements {' and '.join(map(short, names))}, and the task's data are {there}: say "
            "what stood left and right, with the data's own names, by `columns: {responses: [left, right]}` "
            "beside `format: label-studio`",
        )
    return names
