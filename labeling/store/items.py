"""Tasks come in: checked, each once, with their places in the queue."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from align.data.formats import Format, Judged, LeftOut, Record, Unranked, detect
from align.data.formats.base import listed
from align.data.formats.own import ALIGN
from align.errors import UserError
from align.messages import TOOLS
from align.records import Demonstration, Prompt, Ranking
from align.values import RecordError
from labeling.answers import KINDS, ORDERING, UNSTORABLE, storable
from labeling.store.assignment import NEEDS, name_people, needs_of
from labeling.store.models import Item, Person, Response, Slot, in_turn
from labeling.store.repeats import once_each

_KEYS = ("prompt", TOOLS, "responses", "kind", "priority", "overlap", "gold", "meta", *NEEDS)
_LISTS = ("responses", "gold", "meta", "people", "skills")  # a table has them as text
_RESPONSE_KEYS = ("text", "origin", "author")
_TOGETHER = 400  # rows written at once


@dataclass
class AddedItems:
    """What became of rows: new items' ids, the ids of those that were there before, what people ranked."""

    ids: list[int]
    before: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # what a format makes no record of, by reason
    said: list[tuple[int, Ranking]] = field(default_factory=list)  # items' ids; only where a labeler is named


def add_items(
    session: Session,
    rows: Iterable[Mapping[str, Any]],
    overlap: int,
    by: Person | None = None,
    form: Format | None = None,
) -> AddedItems:
    """Rows as `form` reads them; without it those with a prompt and more of `_KEYS`, or of a known format.

    A row that is there already (kind, prompt and responses) is not added again. Raises RecordError.
    """
    added = AddedItems([])
    names = names_of(session)
    given: list[tuple[Item, Ranking | None]] = []
    for row in rows:
        for item, ranking in made_of(row, overlap, names, form, added.left_out):
            item.created_by = by.id if by else None
            given.append((item, ranking))
        if len(given) >= _TOGETHER:
            _add(session, given, added)
    _add(session, given, added)
    return added


def names_of(session: Session) -> dict[str, int]:
    """Everybody's number, by name."""
    return {name: id for id, name in session.execute(select(Person.id, Person.name))}


def made_of(
    row: Any,
    overlap: int,
    names: Mapping[str, int],
    form: Format | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[tuple[Item, Ranking | None]]:
    """The items that a row makes, in no database yet, and what a named person ranked. Raises RecordError."""
    left_out = Counter() if left_out is None else left_out
    for found in _items(row, overlap, form, left_out):
        merged = once_each(*found, left_out)
        if merged is None:
            continue
        item, authors, ranking = merged
        item.key = _key(item)
        for response, author in zip(item.responses, authors, strict=True):
            if author is not None and author not in names:
                raise RecordError("author", f"nobody is called {author[:40]!r}")
            response.author_id = names.get(author) if author else None
        name_people(item.needs, names)
        yield item, ranking


def shown_format(row: Any) -> Format | None:
    """The known format that a file's first row shows; None where each row says for itself what it is.

    Raises RecordError.
    """
    if not isinstance(row, Mapping) or "prompt" in row and (set(row) <= set(_KEYS) or "ranks" in row):
        return None
    try:
        found = detect(row)
    except UserError as error:
        raise RecordError("", str(error)) from error
    return found if found.name != ALIGN.name else None


def prompts_of(session: Session, origin: str) -> Iterator[Any]:
    """The prompts, as messages, of all tasks with a response of this origin."""
    written = exists().where(Response.item_id == Item.id, Response.origin == origin)
    return session.scalars(select(Item.prompt).where(written).order_by(Item.id))


def _add(session: Session, given: list[tuple[Item, Ranking | None]], added: AddedItems) -> None:
    """Write the items that are not there yet, with their slots, and empty the list."""
    in_turn(session, "items")
    keys = {item.key for item, _ in given}
    ids = dict(session.execute(select(Item.key, Item.id).where(Item.key.in_(keys))).all())
    new: dict[str, Item] = {}
    for item, _ in given:
        if item.key not in ids:
            new.setdefault(item.key, item)
    session.add_all(new.values())
    session.flush()
    for item in new.values():
        if item.gold is None:  # gold items get a slot for each person who meets them
            session.add_all(Slot(item_id=item.id, number=n) for n in range(item.overlap))
    session.flush()
    ids |= {key: item.id for key, item in new.items()}
    for item, ranking in given:
        (added.ids if new.get(item.key) is item else added.before).append(ids[item.key])
        if ranking is not None:
            added.said.append((ids[item.key], ranking))
    given.clear()


def _items(
    row: Any, overlap: int, form: Format | None, left_out: Counter[str]
) -> list[tuple[Item, list[str | None], Ranking | None]]:
    """An item for each task of a row, its responses' authors, and what a named person made of it."""
    if not isinstance(row, Mapping):
        raise RecordError("", "must be an object with a prompt")
    if form is None and "prompt" in row and set(row) <= set(_KEYS):
        return [(*_own(row, overlap), None)]
    try:
        form = form or (ALIGN if "prompt" in row and "ranks" in row else detect(row))
        read = list(form.read(row)) or [LeftOut(f"no record in it, says {form.name}")]
    except RecordError:
        raise
    except UserError as error:
        raise RecordError("", str(error)) from error
    left_out.update(found.reason for found in read if isinstance(found, LeftOut))
    return [_from_record(found, overlap) for found in read if not isinstance(found, LeftOut)]


def _own(row: Mapping[str, Any], overlap: int) -> tuple[Item, list[str | None]]:
    prompt = Prompt.from_dict({"prompt": row["prompt"], TOOLS: row.get(TOOLS)})
    row = {**row, **{key: listed(row[key], key) for key in _LISTS if key in row}}
    given = row.get("responses", [])
    if not isinstance(given, list):
        raise RecordError("responses", "must be a list")
    pairs = [_response(part, i) for i, part in enumerate(given)]
    responses, authors = [response for response, _ in pairs], [author for _, author in pairs]
    item = _made(row.get("kind"), prompt, responses, overlap)
    item.priority = float(_number(row, "priority", -1e9, 1e9, 0.0))
    item.overlap = int(_number(row, "overlap", 1, 50, overlap, whole=True))
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise RecordError("meta", "must be an object")
    if not storable(meta):
        raise RecordError("meta", UNSTORABLE)
    item.meta = dict(meta)
    item.needs = needs_of(row)
    if row.get("gold") is not None:
        gold = {"prompt": row["prompt"], "responses": [r.text for r in responses], "ranks": row["gold"]}
        if item.kind not in ORDERING:
            raise RecordError("gold", f"known ranks are for tasks that {' or '.join(ORDERING)}")
        item.gold = list(Ranking.from_dict(gold).ranks)
    return item, authors


def _response(part: Any, i: int) -> tuple[Response, str | None]:
    if isinstance(part, str):
        part = {"text": part}
    if not isinstance(part, Mapping) or "text" not in part or not set(part) <= set(_RESPONSE_KEYS):
        raise RecordError(f"responses[{i}]", f"must be text, or an object with {', '.join(_RESPONSE_KEYS)}")
    for key in _RESPONSE_KEYS:
        if part.get(key) is not None and not isinstance(part[key], str):
            raise RecordError(f"responses[{i}].{key}", "must be text")
    try:
        text = Demonstration.from_dict({"prompt": "x", "response": part["text"]}).response
    except RecordError as error:
        raise RecordError(f"responses[{i}]", error.message) from None
    origin, author = part.get("origin"), part.get("author")
    if origin is not None and (len(origin) > 200 or not storable(origin)):
        raise RecordError(f"responses[{i}].origin", "must be text of at most 200 characters")
    return Response(position=i, text=text, origin=origin), author


def _from_record(record: Record, overlap: int) -> tuple[Item, list[str | None], Ranking | None]:
    texts: tuple[str, ...] = ()
    if isinstance(record, Demonstration):
        texts = (record.response,)
    elif isinstance(record, (Ranking, Unranked, Judged)):
        texts = record.responses
    responses = [Response(position=i, text=text) for i, text in enumerate(texts)]
    item = _made(None, Prompt(record.prompt), responses, overlap)
    said = record if isinstance(record, Ranking) and record.labeler else None
    return item, [None] * len(responses), said


def _made(kind: Any, prompt: Prompt, responses: list[Response], overlap: int) -> Item:
    kind = kind or ("demonstrate", "correct", "rank")[min(len(responses), 2)]
    if not isinstance(kind, str) or kind not in KINDS:
        raise RecordError("kind", f"must be one of {', '.join(KINDS)}")
    low, high = KINDS[kind].responses
    if not low <= len(responses) <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise RecordError("responses", f"has {len(responses)}: a task to {kind} has {wanted}")
    given = prompt.prompt
    plain = isinstance(given, str)
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else [dict(m) for m in given]
    return Item(
        kind=kind,
        prompt=messages,
        plain=plain,
        overlap=overlap,
        priority=0.0,
        meta={},
        responses=responses,
        characters=sum(len(m["content"]) for m in messages) + sum(len(r.text) for r in responses),
    )


def _key(item: Item) -> str:
    """What the same task has again."""
    same = json.dumps([item.kind, item.plain, item.prompt, [r.text for r in item.responses]])
    return hashlib.sha256(same.encode()).hexdigest()


def _number(
    row: Mapping[str, Any], key: str, low: float, high: float, default: float, whole: bool = False
) -> float:
    value = row.get(key)
    if value is None:
        return default
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise RecordError(key, f"must be a {'whole ' if whole else ''}number from {low:g} to {high:g}")
    return value
