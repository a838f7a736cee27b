"""Labels as training data: the rows that `align sft` and `align rm` read straight from the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.store.labels import standing
from labeling.store.models import Item, Label, Person
from labeling.store.suggestions import MACHINE, by_people
from labeling.work import ranks_of

Kind = Literal["prompts", "demonstrations", "rankings"]


def records(
    session: Session, kind: Kind, guideline: str | None = None, labelers: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows in align's own form, oldest label first.

    Where a reviewer has decided, that decision alone counts; a machine's label counts where no person's
    stands. Gold items, skips, and answers that order nothing (all bad without ranks) give none. `guideline`:
    a version's hash or its beginning.
    """
    if kind == "prompts":
        for item in session.scalars(select(Item).where(Item.gold.is_(None)).order_by(Item.id)):
            yield {"prompt": prompt_of(item)}
        return
    decided = set(session.scalars(select(Label.item_id).where(standing(), Label.adjudicates.is_(True))))
    judged = set(session.scalars(select(Label.item_id).where(standing(), by_people(), Label.kind != "skip")))
    query = select(Label, Item, Person.name).where(standing()).join(Item, Item.id == Label.item_id)
    query = query.join(Person, Person.id == Label.person_id).where(Item.gold.is_(None), Label.kind != "skip")
    if guideline is not None:
        query = query.where(Label.guideline.startswith(guideline, autoescape=True))
    if labelers:
        query = query.where(Person.name.in_(labelers))
    for label, item, name in session.execute(query.order_by(Label.id)):
        if item.id in decided and not label.adjudicates:
            continue
        if item.id in judged and label.suggestion_shown == MACHINE:
            continue
        yield from (_ranking if kind == "rankings" else _demonstration)(label, item, name)


def prompt_of(item: Item) -> Any:
    """The prompt as it came in: text, or messages."""
    return item.prompt[0]["content"] if item.plain else item.prompt


def _ranking(label: Label, item: Item, name: str) -> Iterator[dict[str, Any]]:
    ranks = ranks_of(label.kind, label.content)
    if ranks is None:
        return
    row = {
        "prompt": prompt_of(item),
        "responses": [response.text for response in item.responses],
        "ranks": ranks,
        "labeler": name,
        "guideline": label.guideline,
        "shown_order": label.shown_order,
        "seconds": label.seconds,
        "source": f"label {label.id}",
    }
    yield {key: value for key, value in row.items() if value is not None}


def _demonstration(label: Label, item: Item, name: str) -> Iterator[dict[str, Any]]:
    if label.kind in ("demonstrate", "correct"):
        yield {"prompt": prompt_of(item), "response": label.content["text"]}
    elif label.kind == "rank" and label.content["edit"]:
        yield {"prompt": prompt_of(item), "response": label.content["edit"]["text"]}
