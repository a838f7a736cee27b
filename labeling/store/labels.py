"""What people answered: drafts, which change, and labels, which never do."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from align.errors import UserError
from labeling.answers import (
    Answer,
    checked,
    drawn_order,
    in_item_order,
    in_shown_order,
    ranks_of,
    with_sources,
    written_in,
)
from labeling.language import N_, gettext
from labeling.store.checks import note_checks
from labeling.store.models import (
    Draft,
    Guideline,
    Item,
    Label,
    Person,
    Slot,
    Verdict,
    in_turn,
    is_newest,
    now,
    standing,
)
from labeling.store.queue import HELD, lock_item, own_slot, place_for, release, was_given
from labeling.store.suggestions import note_suggestion, prefilled_ranks
from labeling.store.summary import summarise

MAX_DRAFT = 400_000  # characters of JSON
_TOGETHER = 1000  # rows asked for at once
_OTHER = N_(
    "An earlier version of this answer was saved, not this one. Nothing here is lost: submit again to put "
    "this one in its place."
)
_ANSWERED = N_(
    "You have answered this task already, in another tab or browser. Nothing here is lost: submit again to "
    "put this answer in the place of that one."
)
_DECIDED = N_(
    "%(name)s has decided this task already. Nothing was changed: look at that decision, or submit again to "
    "put yours in its place."
)
KEPT = "kept"  # a person's own word on an answer that was returned: it stays
REJECTED = "rejected"  # the kind of a label that takes one back which a reviewer rejected


_UNTOUCHED = N_("You changed nothing: change it, or say that it is right as it stands.")
_TOUCHED = N_("You changed it, so it isn't right as it stands: submit your version.")


class NotYours(UserError):
    """The task was never given to this person."""


class Superseded(UserError):
    """Another answer stands where this one was to go; `standing` is the submission of that one."""

    def __init__(self, message: str, standing: str | None) -> None:
        super().__init__(message)
        self.standing = standing


class NewerDraft(UserError):
    """The draft that is kept isn't the one that this one was made from."""

    def __init__(self, content: dict[str, Any], revision: int) -> None:
        super().__init__(gettext("This task was worked on elsewhere meanwhile."))
        self.content, self.revision = content, revision


def keep_guideline(session: Session, text: str) -> str:
    """Store a version of the guideline, and return its hash."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if session.get(Guideline, digest) is None:
        made = (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert(Guideline)
        session.execute(made.values(hash=digest, text=text, created=now()).on_conflict_do_nothing())
    return digest


def save_draft(
    session: Session, person: Person, item: int, content: dict[str, Any], revision: int | None = None
) -> int:
    """Keep what a person has done so far, made from `revision` (None: from any); the new revision.

    Raises NotYours where the task was never given to them, NewerDraft where another revision is kept.
    """
    if not was_given(session, person, item):
        raise NotYours(gettext("This task was not given to you."))
    draft = session.get_one(Draft, (item, person.id))
    if revision is not None and revision != draft.revision:
        raise NewerDraft(draft.content, draft.revision)
    return _put(draft, content)


def _put(draft: Draft, content: dict[str, Any]) -> int:
    draft.content, draft.saved, draft.revision = content, now(), draft.revision + 1
    return draft.revision


def submit(
    session: Session,
    person: Person,
    item: Item,
    given: Answer,
    secret: str,
    quality: str = "optional",
    order: list[int] | None = None,
    talk: str | None = None,
) -> Label:
    """Add a label; a second call with the same `given.submission` and the same content adds nothing.

    `order`: in which the person saw the responses, where it is not the one that is drawn for tasks. `talk`:
    the seal of the policy's answer that this corrects.

    Raises UserError for an incomplete answer, and for one that is what the person was shown, unless they
    affirm it; NotYours where the task was never given to this person, and Superseded where the submission is
    known with other content, or another answer stands that
    `given.instead_of` does not name.
    """
    known = _submitted(session, person, item, given)
    kind, count = "skip" if given.skip else item.kind, len(item.responses)
    order = drawn_order(secret, item.id, person.id, count) if order is None else order
    if known is not None:
        if not _same(known, item, given, kind, order):
            before = label_before(session, person, item, given.adjudicates)
            raise Superseded(gettext(_OTHER), _submission(session, before) or known.submission)
        return known
    answer = checked(kind, given.content, count, "optional" if given.adjudicates else quality)
    if given.guideline is not None and session.get(Guideline, given.guideline) is None:
        raise UserError(gettext("This version of the guideline is not known: reload the page."))
    in_order = _with_sources(item, kind, in_item_order(kind, answer, order))
    draft = session.get(Draft, (item.id, person.id))
    untouched = not given.adjudicates and is_untouched(session, item, draft, kind, in_order)
    if untouched != given.affirmed:
        raise UserError(gettext(_UNTOUCHED if untouched else _TOUCHED))
    before = label_before(session, person, item, given.adjudicates)
    _check_before(session, person, item, before, given)
    label = Label(
        item_id=item.id,
        person_id=person.id,
        kind=kind,
        content=in_order,
        guideline=given.guideline,
        shown_order=order,
        seconds=given.seconds,
        adjudicates=given.adjudicates,
        replaces=before,
        submission=given.submission,
        affirmed=given.affirmed,
    )
    if given.adjudicates:
        _bound_seconds(session, person, label, None)
    else:
        _finish_place(session, person, label, given.instead_of)
    if draft is not None:
        _put(draft, {})
        if not given.adjudicates:
            note_suggestion(session, label, draft)
            note_checks(session, label, (written_in(kind, in_order) or (None,))[0], talk)
    session.flush()  # the rest first: in PostgreSQL other people's labels wait from the label on
    session.add(label)  # whole: it can't be changed once it is written
    session.flush()
    summarise(session, [item.id])
    return label


def is_untouched(
    session: Session, item: Item, draft: Draft | None, kind: str, content: dict[str, Any]
) -> bool:
    """Whether an answer, in the item's order, is what stood on the page before the person came."""
    if kind == "correct":
        text, _ = written_in(kind, content) or ("", None)
        return _plain(text) == _plain(item.responses[0].text)
    suggested = prefilled_ranks(session, draft)
    return suggested is not None and ranks_of(kind, content) == suggested


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def _check_before(session: Session, person: Person, item: Item, before: int | None, given: Answer) -> None:
    """A decision replaces another reviewer's only knowingly; what was rejected is not given again."""
    found = session.get(Label, before) if before is not None else None
    if found is None:
        return
    if given.adjudicates:
        if (
            found.person_id != person.id
            and found.kind != REJECTED
            and found.submission not in given.instead_of
        ):
            name = session.get_one(Person, found.person_id).name
            raise Superseded(gettext(_DECIDED, name=name), found.submission)
    elif found.kind == REJECTED and own_slot(session, person.id, item.id) is None:
        raise UserError(
            gettext("A reviewer rejected your earlier answer to this task, which went to somebody else.")
        )


def _submitted(session: Session, person: Person, item: Item, given: Answer) -> Label | None:
    """The label that this submission made before; raises NotYours where the task is not this person's.

    Whoever comes second here, with the same submission too, waits until the first has committed.
    """
    theirs = lock_item(session, item.id) if given.adjudicates else was_given(session, person, item.id)
    known = session.scalar(select(Label).where(Label.submission == given.submission))
    if not theirs or (known is not None and known.person_id != person.id):
        raise NotYours(gettext("This task was not given to you."))
    return known


def _same(known: Label, item: Item, given: Answer, kind: str, order: list[int]) -> bool:
    """Whether a label is what was given."""
    if (known.item_id, known.kind, known.adjudicates) != (item.id, kind, given.adjudicates):
        return False
    try:
        answer = checked(kind, given.content, len(item.responses))
        content = _with_sources(item, kind, in_item_order(kind, answer, order))
    except UserError:
        return False
    said = (known.guideline, known.affirmed)
    return said == (given.guideline, given.affirmed) and known.content == content


def _with_sources(item: Item, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    return with_sources(kind, content, [response.text for response in item.responses])


def _submission(session: Session, label: int | None) -> str | None:
    return session.scalar(select(Label.submission).where(Label.id == label))


def _finish_place(session: Session, person: Person, label: Label, instead_of: list[str]) -> None:
    """End the person's work on the task, and note on the label that it took no longer than they had it."""
    own = own_slot(session, person.id, label.item_id)
    taken = own.taken if own is not None else None  # None: somebody else has the place by now
    slot = place_for(session, person, label.item_id)
    before = _submission(session, label.replaces)
    if slot.state == "done" and before not in instead_of:
        raise Superseded(gettext(_ANSWERED), before)
    _bound_seconds(session, person, label, taken)
    if label.kind == "skip":
        release(slot)
    else:
        slot.state, slot.leased_until = "done", None


def _bound_seconds(session: Session, person: Person, label: Label, taken: datetime | None) -> None:
    """Believe a page's seconds up to the time that has gone by since the person took the task."""
    if label.seconds is not None:
        gone = now() - (taken or last_act(session, person))
        label.seconds = min(label.seconds, max(0.0, gone.total_seconds()))


def last_act(session: Session, person: Person) -> datetime:
    """When a person gave their newest label, or got their account: what they do now is work since then."""
    newest = select(Label.created).where(Label.person_id == person.id).order_by(Label.id.desc()).limit(1)
    return session.scalar(newest) or person.created


def reopen(session: Session, person: Person, label_id: int) -> Item:
    """Give a person the task of their own label again, the answer as a draft; it stands until the next one.

    A task that is reopened already stays as it is. Raises NotYours where this is no current answer of theirs.
    """
    label = session.scalar(select(Label).where(Label.id == label_id, Label.person_id == person.id))
    if label is not None:
        was_given(session, person, label.item_id)
    stands = session.scalar(select(Label.id).where(Label.id == label_id, standing())) is not None
    if label is None or label.adjudicates or not stands:
        raise NotYours(gettext("This is not a current answer of yours."))
    item = session.get_one(Item, label.item_id)
    slot = place_for(session, person, item.id)
    begun = slot.state in HELD
    slot.state = "leased" if label.kind == "skip" else "reopened"
    slot.taken, slot.leased_until = now(), now()  # first in the person's queue; a page that opens prolongs it
    if not begun:
        skipped = label.kind == "skip"
        answer = {} if skipped else in_shown_order(label.kind, label.content, label.shown_order)
        _put(session.get_one(Draft, (item.id, person.id)), answer)
    session.flush()
    return item


def keep_answer(session: Session, person: Person, item: int) -> None:
    """End a reopening: the answer that stands stays. Raises NotYours where nothing is reopened."""
    given = was_given(session, person, item)
    slot = own_slot(session, person.id, item)
    if not given or slot is None or slot.state != "reopened":
        raise NotYours(gettext("You have not reopened this task."))
    slot.state, slot.leased_until = "done", None
    _put(session.get_one(Draft, (item, person.id)), {})
    _note_kept(session, person, item)


def _note_kept(session: Session, person: Person, item: int) -> None:
    """Where a reviewer returned the answer that is kept: the reviewer looks at it again."""
    in_turn(session, "labels")
    query = select(Verdict).join(Label, Label.id == Verdict.label_id)
    query = query.where(Label.item_id == item, Label.person_id == person.id, standing())
    last = session.scalars(query.order_by(Verdict.id.desc()).limit(1)).first()
    if last is not None and last.said == "returned":
        session.add(Verdict(label_id=last.label_id, person_id=person.id, said=KEPT, replaces=last.id))
        summarise(session, [item])


def lock_all(session: Session, items: set[int]) -> None:
    """Take what others hold while they wait to write a label: the tasks, then their places.

    To be called before the first of several labels in a transaction, so that it waits for nobody after that.
    """
    parts = [sorted(items)[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER)]
    for some in parts:
        tasks = select(Item.id).where(Item.id.in_(some)).order_by(Item.id)
        session.execute(tasks.with_for_update(key_share=True)).all()
    for some in parts:
        places = select(Slot.id).where(Slot.item_id.in_(some)).order_by(Slot.id)
        session.execute(places.with_for_update()).all()


def last_own(session: Session, person: Person, item: int | None = None) -> Label | None:
    """The person's newest label that stands; of one task, where `item` says which."""
    mine = select(Label).where(standing(), Label.person_id == person.id, Label.adjudicates.is_(False))
    if item is not None:
        mine = mine.where(Label.item_id == item)
    return session.scalars(mine.order_by(Label.id.desc()).limit(1)).first()


def history(session: Session, person: Person, limit: int = 200) -> list[tuple[Label, Item, Verdict | None]]:
    """A person's own labels that stand or were rejected, newest first, with what a reviewer said."""
    said = or_(Verdict.label_id == Label.id, and_(Label.kind == REJECTED, Verdict.label_id == Label.replaces))
    later = aliased(Verdict)
    said = and_(said, ~exists().where(later.replaces == Verdict.id))
    query = select(Label, Item, Verdict).join(Item, Item.id == Label.item_id).outerjoin(Verdict, said)
    query = query.where(Label.person_id == person.id, is_newest(), Label.kind != "withdrawn")
    found = session.execute(query.order_by(Label.id.desc()).limit(limit))
    return [(label, item, verdict) for label, item, verdict in found]


def label_before(session: Session, person: Person, item: Item, adjudicates: bool) -> int | None:
    """The label that a new one comes after: the last of the person's own, or the last adjudication."""
    query = select(Label.id).where(Label.item_id == item.id, is_newest())
    if adjudicates:
        query = query.where(Label.adjudicates.is_(True))
    else:
        query = query.where(Label.person_id == person.id, Label.adjudicates.is_(False))
    return session.scalars(query.order_by(Label.id.desc()).limit(1)).first()
