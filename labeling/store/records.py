"""Labels as training data: the rows that `align sft` and `align rm` read straight from the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from align.errors import UserError
from align.records import RecordKind
from align.stats.rankings import Ranks, disagreement
from labeling.answers import ORDERING, parts_of, ranks_of, written_in
from labeling.store.checks import names_of_checks
from labeling.store.engine import Store
from labeling.store.models import Item, Label, Person, standing
from labeling.store.suggestions import MACHINE, by_people


@dataclass(frozen=True)
class Filters:
    """Which labels become records; the keys of a recipe's entry beside `labels`.

    `guideline`: a version's hash or its beginning. `agreement`: the least share of pairs that those who
    ranked a task order alike. `corrections`: rankings are also what people preferred by rewriting.
    `until`: the labels as they stood when the one with this number was the last.
    """

    guideline: str | None = None
    labelers: Sequence[str] = ()
    agreement: float | None = None
    corrections: bool = False
    until: int | None = None


ALL = Filters()


def records(session: Session, kind: RecordKind, filters: Filters = ALL) -> Iterator[dict[str, Any]]:
    """Rows in align's own form, oldest label first.

    Where a reviewer has decided, that decision alone counts; a machine's label counts where no person's
    stands. Gold items, skips, and answers that order nothing (all bad without ranks) give none.
    """
    return (row for _, row in labelled(session, kind, filters))


def read_records(
    address: str, kind: RecordKind | Literal["evidence"], filters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The training records of a database, or `evidence`: what align finds under the entry point `labels`.

    filters: the fields of `Filters`. Raises UserError where the database or a labeler is not there.
    """
    chosen = Filters(**filters)
    if "://" not in address and not Path(address).is_file():
        raise UserError("no such labeling database: `align label` makes it")
    with closing(Store(address)) as store, store.read() as session:
        unknown = sorted(set(chosen.labelers) - set(session.scalars(select(Person.name))))
        if unknown:
            raise UserError(f"labelers: nobody is called {', '.join(unknown)}")
        return list(evidence(session, chosen) if kind == "evidence" else records(session, kind, chosen))


def labelled(
    session: Session, kind: RecordKind, filters: Filters = ALL
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """The same rows, each with the task that it is from."""
    if kind == "prompts":
        for item in session.scalars(select(Item).where(Item.gold.is_(None)).order_by(Item.id)):
            yield item, {"prompt": prompt_of(item)}
        return
    stands = [standing(filters.until)]
    if filters.until is not None:
        stands.append(Label.id <= filters.until)
    decided = set(session.scalars(select(Label.item_id).where(*stands, Label.adjudicates.is_(True))))
    judged = set(session.scalars(select(Label.item_id).where(*stands, by_people(), Label.kind != "skip")))
    disputed = _disputed(session, stands, filters.agreement) - decided
    query = _answers().where(*stands)
    if filters.guideline is not None:
        query = query.where(Label.guideline.startswith(filters.guideline, autoescape=True))
    if filters.labelers:
        query = query.where(Person.name.in_(filters.labelers))
    for label, item, name in session.execute(query.order_by(Label.id)):
        if item.id in disputed or (item.id in decided and not label.adjudicates):
            continue
        if item.id in judged and label.suggestion_shown == MACHINE:
            continue
        if kind == "demonstrations":
            rows = _demonstration(label, item)
        else:
            rows = _ranking(label, item, name)
            if filters.corrections:
                rows = chain(rows, _correction(label, item, name))
        yield from ((item, row) for row in rows)


def evidence(session: Session, filters: Filters = ALL) -> Iterator[dict[str, Any]]:
    """Rankings by which labelers are judged: all that stand, whatever came of them, under this guideline.

    Also of gold tasks, of disputed ones and of those that a reviewer decided, and whoever is chosen to train.
    For each gold task there is a row more, without a labeler: the order that is known.
    """
    stands = [standing(filters.until), Label.kind.in_(ORDERING)]
    if filters.until is not None:
        stands.append(Label.id <= filters.until)
    if filters.guideline is not None:
        stands.append(Label.guideline.startswith(filters.guideline, autoescape=True))
    query = select(Label, Item, Person.name).join(Item, Item.id == Label.item_id)
    gold: set[int] = set()
    for label, item, name in session.execute(
        query.join(Person, Person.id == Label.person_id).where(*stands).order_by(Label.id)
    ):
        yield from _ranking(label, item, name)
        if item.gold is not None and item.id not in gold:
            gold.add(item.id)
            texts = [response.text for response in item.responses]
            yield {"prompt": prompt_of(item), "responses": texts, "ranks": item.gold}


def share_apart(rankings: Iterable[Ranks]) -> float | None:
    """The share of pairs that rankings of one task order differently; None where no two have a pair."""
    apart, pairs = disagreement(*rankings)
    return apart / pairs if pairs else None


def prompt_of(item: Item) -> Any:
    """The prompt as it came in: text, or messages."""
    return item.prompt[0]["content"] if item.plain else item.prompt


def _answers() -> Select[Label, Item, str]:
    query = select(Label, Item, Person.name).join(Item, Item.id == Label.item_id)
    query = query.join(Person, Person.id == Label.person_id)
    return query.where(Item.gold.is_(None), Label.kind != "skip")


def _disputed(session: Session, stands: list[ColumnElement[bool]], least: float | None) -> set[int]:
    """The items whose rankings agree on less than this share of pairs; a single ranking always agrees."""
    if least is None:
        return set()
    query = select(Label.item_id, Label.kind, Label.content).join(Item, Item.id == Label.item_id)
    query = query.where(*stands, by_people(), Item.gold.is_(None), Label.kind.in_(ORDERING))
    rankings: dict[int, list[list[int | None]]] = {}
    for item, kind, content in session.execute(query.where(Label.adjudicates.is_(False))):
        ranks = ranks_of(kind, content)
        if ranks is not None:
            rankings.setdefault(item, []).append(ranks)
    shares = {item: share_apart(several) for item, several in rankings.items()}
    return {item for item, apart in shares.items() if apart is not None and 1 - apart < least}


def _ranking(label: Label, item: Item, name: str) -> Iterator[dict[str, Any]]:
    ranks = ranks_of(label.kind, label.content)
    if ranks is not None:
        texts = [response.text for response in item.responses]
        row = _row(label, item, name, texts, ranks, f"label {label.id}")
        yield row | {"shown_order": label.shown_order}


def _correction(label: Label, item: Item, name: str) -> Iterator[dict[str, Any]]:
    """What a person wrote in place of a response is better than that response."""
    text, index = written_in(label.kind, label.content) or ("", None)
    if index is None:
        return
    original = item.responses[index].text
    if text.strip() != original.strip():
        yield _row(label, item, name, [text, original], [1, 2], f"correction {label.id}")


def _demonstration(label: Label, item: Item) -> Iterator[dict[str, Any]]:
    written = written_in(label.kind, label.content)
    if written is not None:
        parts = [_part(item, part) for part in parts_of(label.kind, label.content)]
        row = {"prompt": prompt_of(item), "response": written[0], "parts": parts or None}
        row["checks"] = names_of_checks(label) or None
        yield {key: value for key, value in row.items() if value is not None}


def _part(item: Item, part: dict[str, Any]) -> dict[str, Any]:
    """Where a part is from: the task, which of its responses, the characters [start, end) of that."""
    return {"task": item.id, **{key: part[key] for key in ("response", "start", "end", "edited")}}


def _row(
    label: Label, item: Item, name: str, responses: list[str], ranks: Sequence[int | None], source: str
) -> dict[str, Any]:
    row = {
        "prompt": prompt_of(item),
        "responses": responses,
        "ranks": list(ranks),
        "labeler": name,
        "guideline": label.guideline,
        "seconds": label.seconds,
        "source": source,
        "checks": names_of_checks(label) or None,
    }
    return {key: value for key, value in row.items() if value is not None}
