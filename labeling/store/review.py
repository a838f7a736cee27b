"""What reviewers look at and say: tasks with what stands on them, people's labels, and verdicts."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from align.errors import UserError
from labeling.language import gettext, number
from labeling.store.audit import note
from labeling.store.labels import KEPT, reopen
from labeling.store.models import (
    TAKEN_BACK,
    Draft,
    Item,
    Label,
    Person,
    Slot,
    Summary,
    Verdict,
    in_turn,
    is_newest,
    standing,
)
from labeling.store.pages import Page, paged
from labeling.store.queue import lock_item, own_slot, release
from labeling.store.suggestions import MACHINE
from labeling.store.summary import summarise

ACCEPTED, RETURNED, REJECTED = SAID = ("accepted", "returned", "rejected")
STATES = ("undecided", *SAID, KEPT, "replaced")
WHICH = ("open", "apart", "decided")
TASKS_A_PAGE, LABELS_A_PAGE = 50, 20
MAX_REMARK = 2000


class Decided(UserError):
    """Somebody else has said something of this label, or it was replaced, since the page was made."""


@dataclass(frozen=True)
class SeenLabel:
    """A label with all that a reviewer sees of it; `replaced`: another answer stands in its place."""

    label: Label
    item: Item
    name: str
    replaced: bool
    verdict: Verdict | None
    reviewer: str | None

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.verdict is not None and self.verdict.said == REJECTED:
            return REJECTED
        if self.replaced:
            return "replaced"
        return self.verdict.said if self.verdict is not None else "undecided"

    @property
    def can_be_decided(self) -> bool:
        """Whether a verdict on it would change anything."""
        return self.state not in (REJECTED, "replaced") and self.label.kind != "skip"


def tasks(
    session: Session, which: str | None = None, kind: str | None = None, number: int = 1
) -> Page[tuple[Item, Summary]]:
    """Tasks that people answered, those first that they disagree about most; `which`: one of WHICH."""
    query = select(Item, Summary).join(Summary, Summary.item_id == Item.id).where(Summary.answers > 0)
    if kind is not None:
        query = query.where(Item.kind == kind)
    if which == "open":
        query = query.where(Summary.undecided > 0)
    elif which == "apart":
        query = query.where(Summary.apart > 0, Summary.decided.is_(False))
    elif which == "decided":
        query = query.where(Summary.decided)
    return paged(session, query, number, TASKS_A_PAGE, (Summary.decided, Summary.apart.desc(), Item.id))


def persons_labels(
    session: Session, person: int, kind: str | None = None, state: str | None = None, number: int = 1
) -> Page[SeenLabel]:
    """One person's answers, newest first, earlier and rejected ones too."""
    query = seen_labels().where(Label.person_id == person)
    if kind is not None:
        query = query.where(Label.kind == kind)
    if state is not None:
        query = query.where(_in_state(state))
    page = paged(session, query, number, LABELS_A_PAGE, (Label.id.desc(),))
    return Page([seen_label(row) for row in page.rows], page.number, page.pages, page.total)


def labels_of(session: Session, item: int) -> list[SeenLabel]:
    """Everything that was answered to a task, oldest first."""
    query = seen_labels().where(Label.item_id == item).order_by(Label.id)
    return [seen_label(tuple(row)) for row in session.execute(query)]


def seen(session: Session, label: int) -> SeenLabel | None:
    """One label."""
    row = session.execute(seen_labels().where(Label.id == label)).first()
    return seen_label(tuple(row)) if row is not None else None


def verdicts(session: Session, label: int) -> list[tuple[Verdict, str]]:
    """Everything that reviewers said of a label, with their names, oldest first."""
    query = select(Verdict, Person.name).join(Person, Person.id == Verdict.person_id)
    return [
        (v, name) for v, name in session.execute(query.where(Verdict.label_id == label).order_by(Verdict.id))
    ]


def remark_on(session: Session, person: Person, item: int) -> str | None:
    """What a reviewer said who returned this person's answer; None where nobody did."""
    query = (
        select(Verdict.remark)
        .join(Label, Label.id == Verdict.label_id)
        .where(
            Label.item_id == item,
            Label.person_id == person.id,
            standing(),
            _is_last(Verdict),
            Verdict.said == RETURNED,
        )
    )
    return session.scalars(query.order_by(Verdict.id.desc()).limit(1)).first()


def decide(session: Session, by: Person, label: int, said: str, remark: str, last: int | None) -> Label:
    """Say of a label that it is accepted, returned to its person, or rejected; the label.

    A returned one stands until its person gives another; a rejected one counts nowhere any more, and its
    place in the queue is free for somebody else. `last`: the newest verdict that the reviewer saw.
    Raises Decided where that, or the label, is not the newest; UserError where it cannot be said.
    """
    if said not in SAID:
        raise UserError(gettext("A verdict is accepted, returned or rejected."))
    if said != ACCEPTED and not remark.strip():
        raise UserError(gettext("Say why: the person reads your remark."))
    if len(remark) > MAX_REMARK:
        raise UserError(gettext("A remark has at most %(most)s characters.", most=number(MAX_REMARK)))
    found = session.get(Label, label)
    if found is None or found.kind == "skip" or found.kind in TAKEN_BACK:
        raise UserError(gettext("There is no such answer to decide."))
    if found.person_id == by.id:
        raise UserError(gettext("This is your own answer: somebody else reviews it."))
    if said == ACCEPTED:
        slot = None
    else:  # locked as a labeler locks them who submits: draft, place, and the turn to write labels last
        session.get(Draft, (found.item_id, found.person_id), with_for_update=True)
        slot = own_slot(session, found.person_id, found.item_id)
    if said == RETURNED:
        _give_back(session, found)
    if said == REJECTED:
        _free_place(session, found, slot)
    session.flush()
    in_turn(session, "labels")
    _check_newest(session, found, last)
    made = Verdict(label_id=found.id, person_id=by.id, said=said, remark=remark.strip(), replaces=last)
    session.add(made)
    session.flush()
    if said == REJECTED:
        session.add(_taken_back(found, made))
    note(session, by, f"{said} an answer", "label", found.id, task=found.item_id, of=found.person_id)
    summarise(session, [found.item_id])
    return found


def accept(session: Session, by: Person, labels: Sequence[int]) -> int:
    """Accept those of these labels that nobody has decided yet and that stand; how many."""
    done = 0
    for label in labels:
        try:
            decide(session, by, label, ACCEPTED, "", None)
            done += 1
        except UserError:
            continue  # decided or replaced meanwhile, or one's own: nothing was changed
    return done


def _check_newest(session: Session, label: Label, last: int | None) -> None:
    newest = select(Verdict.id).where(Verdict.label_id == label.id).order_by(Verdict.id.desc()).limit(1)
    if session.scalars(newest).first() != last:
        raise Decided(
            gettext("Somebody decided this answer meanwhile. Nothing was changed: look at what stands now.")
        )
    if session.scalar(select(Label.id).where(Label.id == label.id, standing())) is None:
        raise Decided(
            gettext("This answer was replaced meanwhile. Nothing was changed: look at the newer one.")
        )


def _give_back(session: Session, label: Label) -> None:
    person = session.get_one(Person, label.person_id)
    if person.disabled is not None or person.role == "machine":
        raise UserError(gettext("Nobody works under this account any more: accept the answer, or reject it."))
    if label.adjudicates:
        raise UserError(gettext("This is a reviewer's decision: decide the task again, or reject it."))
    if session.get(Draft, (label.item_id, person.id)) is None:  # it came from a file
        session.add(Draft(item_id=label.item_id, person_id=person.id, content={}))
        session.flush()
    try:
        reopen(session, person, label.id)
    except UserError:
        raise Decided(gettext("This answer was replaced meanwhile. Nothing was changed.")) from None


def _free_place(session: Session, label: Label, slot: Slot | None) -> None:
    """The person's place goes to somebody else, or away where the task has more of them than it needs."""
    if slot is None or label.adjudicates:
        return
    lock_item(session, label.item_id)
    item = session.get_one(Item, label.item_id)
    places = session.scalar(select(func.count()).select_from(Slot).where(Slot.item_id == item.id)) or 0
    if item.gold is not None or places > item.overlap:
        session.delete(slot)
    else:
        release(slot)


def _taken_back(label: Label, verdict: Verdict) -> Label:
    """The label that says that one is gone: labels are only ever added to."""
    return Label(
        item_id=label.item_id,
        person_id=label.person_id,
        kind=REJECTED,
        content={"verdict": verdict.id},
        shown_order=label.shown_order,
        adjudicates=label.adjudicates,
        replaces=label.id,
        submission=f"rejected {secrets.token_hex(12)}",
        suggestion_shown=label.suggestion_shown if label.suggestion_shown == MACHINE else None,
    )


def _is_last(verdict: Any) -> ColumnElement[bool]:
    later = aliased(Verdict)
    return ~exists().where(later.replaces == verdict.id)


def seen_labels() -> Select[*tuple[Any, ...]]:
    reviewer = aliased(Person)
    query = select(Label, Item, Person.name, is_newest(), Verdict, reviewer.name)
    query = query.join(Item, Item.id == Label.item_id).join(Person, Person.id == Label.person_id)
    query = query.outerjoin(Verdict, and_(Verdict.label_id == Label.id, _is_last(Verdict)))
    query = query.outerjoin(reviewer, reviewer.id == Verdict.person_id)
    return query.where(Label.kind.not_in(TAKEN_BACK))


def seen_label(row: tuple[Any, ...]) -> SeenLabel:
    label, item, name, newest, verdict, reviewer = row
    return SeenLabel(label, item, name, not newest, verdict, reviewer)


def _in_state(state: str) -> ColumnElement[bool]:
    said = func.coalesce(Verdict.said, "")
    conditions: Mapping[str, ColumnElement[bool]] = {
        "undecided": and_(is_newest(), said == "", Label.kind != "skip"),
        ACCEPTED: and_(is_newest(), said == ACCEPTED),
        RETURNED: and_(is_newest(), said == RETURNED),
        KEPT: and_(is_newest(), said == KEPT),
        REJECTED: said == REJECTED,
        "replaced": and_(~is_newest(), said != REJECTED),
    }
    return conditions[state]
