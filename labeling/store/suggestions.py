"""What a reward model suggests: kept as it came, shown as the recipe says, and noted on the label.

How a suggestion was shown for a label, `suggestion_shown`: "prefilled": the cards began in its order;
"after": it was shown when the answer was there; "seen": the answer was changed after that; "hidden": it was
kept back, for comparison; "machine": the label is the suggestion itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from align.recipe.labeling import Labeling
from align.stats.rankings import disagreement
from align.values import RecordError
from labeling.answers import ORDERING, checked, ranks_alone, ranks_by_score, ranks_of
from labeling.store.models import Draft, Item, Label, Person, Suggestion, is_newest

PREFILLED, AFTER, SEEN, HIDDEN, MACHINE = "prefilled", "after", "seen", "hidden", "machine"


@dataclass
class AddedSuggestions:
    """How many suggestions are new, and how many were there before."""

    added: int
    known: int


def by_people() -> ColumnElement[bool]:
    """The condition that a label is a person's, not a machine's."""
    return Label.suggestion_shown.is_distinct_from(MACHINE)


def unscored(version: str) -> ColumnElement[bool]:
    """The condition that a reward model of this version could still suggest something for an item."""
    known = exists().where(Suggestion.item_id == Item.id, Suggestion.version == version)
    return Item.kind.in_(ORDERING) & ~known


def add_suggestions(
    session: Session,
    machine: Person,
    source: str,
    version: str,
    given: Sequence[tuple[int, Sequence[float]]],
    *,
    secret: str,
    labels: bool,
) -> AddedSuggestions:
    """Keep the scores of tasks' responses, each version's once; all or none. `labels`: they are labels too.

    Raises RecordError where a task is not there, orders nothing, or has another number of responses.
    """
    wanted = select(Item).where(Item.id.in_([task for task, _ in given])).order_by(Item.id)
    items = {item.id: item for item in session.scalars(wanted.with_for_update(of=Item, key_share=True))}
    there = select(Suggestion.item_id).where(Suggestion.item_id.in_(items), Suggestion.version == version)
    known = set(session.scalars(there))
    sent, new = AddedSuggestions(added=0, known=0), []
    for i, (task, scores) in enumerate(given):
        _check(items.get(task), task, f"suggestions[{i}]", len(scores))
        if task in known:
            sent.known += 1
            continue
        known.add(task)
        sent.added += 1
        made = Suggestion(item_id=task, person_id=machine.id, source=source, version=version)
        made.scores, made.ranks = list(scores), ranks_by_score(scores)
        made.draw = random.Random(f"{secret} audit {task}").random()
        new.append(made)
    session.add_all(new)
    session.flush()
    if labels:
        ours = {id for id, item in items.items() if item.kind == "rank" and item.gold is None}
        label_by_machine(session, [made for made in new if made.item_id in ours])
    return sent


def _check(item: Item | None, task: int, place: str, count: int) -> None:
    if item is None:
        raise RecordError(f"{place}.task", f"there is no task {task}")
    if item.kind not in ORDERING:
        raise RecordError(f"{place}.task", f"task {task} is one to {item.kind}: nothing is suggested for it")
    if count != len(item.responses):
        raise RecordError(f"{place}.scores", f"has {count}: task {task} has {len(item.responses)} responses")


def label_by_machine(session: Session, suggestions: Iterable[Suggestion]) -> None:
    """A label for each suggestion, in the place of the machine's label before. Their items are locked."""
    for made in suggestions:
        before = select(Label.id).where(
            Label.item_id == made.item_id, Label.suggestion_shown == MACHINE, is_newest()
        )
        count = len(made.ranks)
        session.add(
            Label(
                item_id=made.item_id,
                person_id=made.person_id,
                kind="rank",
                content=checked("rank", ranks_alone(made.ranks), count),
                shown_order=list(range(count)),
                replaces=session.scalar(before),
                submission=f"suggestion {made.id}",
                suggestion_id=made.id,
                suggestion_shown=MACHINE,
            )
        )
        session.flush()


def label_the_rest(session: Session) -> None:
    """Labels for tasks whose newest suggestion came while the recipe didn't take suggestions as labels."""
    newest = select(func.max(Suggestion.id)).group_by(Suggestion.item_id)
    labelled = exists().where(Label.suggestion_id == Suggestion.id, Label.suggestion_shown == MACHINE)
    query = select(Suggestion.item_id).where(Suggestion.id.in_(newest), ~labelled)
    items = select(Item.id).where(Item.id.in_(query), Item.kind == "rank", Item.gold.is_(None))
    items = items.order_by(Item.id)
    locked = set(session.scalars(items.with_for_update(of=Item, key_share=True)))
    rest = select(Suggestion).where(Suggestion.id.in_(newest), ~labelled).order_by(Suggestion.id)
    label_by_machine(session, [made for made in session.scalars(rest) if made.item_id in locked])


def suggestion_for(
    session: Session, draft: Draft, item: Item, settings: Labeling, secret: str
) -> Suggestion | None:
    """The suggestion that a person's answer to this task goes with: fixed when the task is first opened.

    Gold tasks have theirs like others: without it they would be known by that.

    `draft.suggestion_shown` says how it is shown. None where there is none, or work had begun without it.
    """
    if settings.suggestions == "off" and draft.suggestion_shown == AFTER:
        draft.suggestion_id = draft.suggestion_shown = None  # it was not shown yet, and will not be
    if draft.suggestion_id is not None:
        return session.get_one(Suggestion, draft.suggestion_id)
    if settings.suggestions == "off" or draft.content:
        return None
    newest = select(Suggestion).where(Suggestion.item_id == item.id).order_by(Suggestion.id.desc())
    found = session.scalars(newest.limit(1)).first()
    if found is not None:
        draft.suggestion_id = found.id
        draft.suggestion_shown = _how(item, draft.person_id, settings, secret)
    return found


def _how(item: Item, person: int, settings: Labeling, secret: str) -> str:
    kept_back = random.Random(f"{secret} control {item.id} {person}").random() < settings.control
    if settings.suggestions == "machine" or kept_back:
        return HIDDEN
    # A blind comparison measures policies by what people say: nothing stands there before they said it.
    return PREFILLED if settings.suggestions == "prefilled" and item.kind == "rank" else AFTER


def prefilled_ranks(session: Session, draft: Draft | None) -> list[int] | None:
    """The ranks that a person's page began with, in the item's order; None where it began with none."""
    if draft is None or draft.suggestion_id is None or draft.suggestion_shown != PREFILLED:
        return None
    return session.get_one(Suggestion, draft.suggestion_id).ranks


def note_suggestion(session: Session, label: Label, draft: Draft) -> None:
    """Write on a new label what was suggested, how it was shown, and how far it was taken."""
    if draft.suggestion_id is None or (label.kind == "skip" and draft.suggestion_shown == AFTER):
        return
    label.suggestion_id, label.suggestion_shown = draft.suggestion_id, draft.suggestion_shown
    ranks = ranks_of(label.kind, label.content)
    if ranks is not None:
        suggested = session.get_one(Suggestion, draft.suggestion_id).ranks
        apart, pairs = disagreement(ranks, suggested)
        label.suggestion_agreed = 1 - apart / pairs
        label.suggestion_taken = apart == 0 and None not in ranks
    if draft.suggestion_shown == AFTER:
        draft.suggestion_shown = SEEN  # whatever comes now comes after it was shown
