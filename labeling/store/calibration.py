"""The first gold tasks of a labeler: feedback after each, a mark to reach, then real work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session

from align.errors import UserError
from align.stats.rankings import disagreement
from labeling.answers import ranks_of
from labeling.language import gettext
from labeling.store.assignment import fits
from labeling.store.audit import note
from labeling.store.models import Calibration, Item, Label, Person

PASSED, FAILED, AGAIN, WAIVED = "passed", "failed", "again", "waived"


@dataclass(frozen=True)
class Standard:
    """How many gold tasks a labeler does first, and the share of pairs to order as known; 0 tasks: none."""

    tasks: int = 0
    mark: float = 0.0


@dataclass(frozen=True)
class Stage:
    """How far somebody is; `said` is None where they are still at it."""

    done: int
    share: float | None
    said: str | None

    @property
    def working(self) -> bool:
        """Whether real tasks come to them."""
        return self.said in (PASSED, WAIVED)


def tasks_of(person: Person, standard: Standard) -> int:
    """How many gold tasks somebody does before those that come among the others."""
    return standard.tasks if person.role == "labeler" else 0


def stage(session: Session, person: Person, standard: Standard) -> Stage | None:
    """Where a labeler stands; None for who needs no calibration."""
    if not standard.tasks or person.role != "labeler":
        return None
    last = _last(session, person.id)
    if last is not None and last.said != AGAIN:
        return Stage(0, last.share, last.said)
    tried = _tried(session, person.id, last.last_label if last else 0)
    return Stage(len(tried), _share(tried), None)


def conclude(session: Session, person: Person, standard: Standard, none_left: bool = False) -> Stage | None:
    """Say whether somebody passed who has done enough, or all that there are; where they stand then."""
    found = stage(session, person, standard)
    if found is None or found.said is not None or not found.done:
        return found
    if found.done < standard.tasks and not none_left:
        return found
    said = PASSED if (found.share or 0.0) >= standard.mark else FAILED
    _say(session, person, said, found.share)
    return Stage(found.done, found.share, said)


def decide(session: Session, by: Person, person: Person, said: str) -> None:
    """A lead lets somebody try again with other gold tasks, or work without passing. Raises UserError."""
    if said not in (AGAIN, WAIVED):
        raise UserError(gettext("Let them try again, or let them work."))
    if said == AGAIN and not session.scalar(select(func.count()).select_from(unmet(person).subquery())):
        raise UserError(
            gettext("There is no gold task that they have not met: add some first, or let them work.")
        )
    _say(session, person, said, None)
    note(session, by, f"calibration: {said}", "person", person.id)


def unmet(person: Person) -> Select[Item]:
    """Gold tasks that somebody has not answered or skipped yet, and may be given."""
    tried = exists().where(Label.item_id == Item.id, Label.person_id == person.id)
    return select(Item).where(Item.gold.is_not(None), Item.hidden.is_(None), fits(person.id), ~tried)


def is_feedback(session: Session, person: Person, label: Label, standard: Standard) -> bool:
    """Whether a gold answer was given while its person was at the calibration: its known order is shown."""
    passed = exists().where(
        Calibration.person_id == person.id,
        Calibration.said.in_((PASSED, WAIVED)),
        Calibration.last_label < label.id,
    )
    if not standard.tasks or person.role != "labeler":
        return False
    return not session.scalar(select(passed))


def was_shown(session: Session, person: Person, item: Item, standard: Standard) -> bool:
    """Whether somebody has seen the known order of a gold task: their answer to it is final."""
    if item.gold is None or not standard.tasks:
        return False
    first = select(Label).where(Label.item_id == item.id, Label.person_id == person.id)
    label = session.scalars(first.order_by(Label.id).limit(1)).first()
    return label is not None and is_feedback(session, person, label, standard)


def results(session: Session) -> dict[int, Calibration]:
    """Everybody's newest result."""
    newest = select(func.max(Calibration.id)).group_by(Calibration.person_id)
    return {
        row.person_id: row for row in session.scalars(select(Calibration).where(Calibration.id.in_(newest)))
    }


def score(ranks: Sequence[int | None] | None, gold: Sequence[int | None]) -> tuple[float, int]:
    """How many pairs of the known order are ordered so, a tie against an order one half, and of how many."""
    pairs = disagreement(gold, gold)[1]
    if ranks is None:
        return 0.0, pairs
    apart, both = disagreement(ranks, gold)
    return both - apart, pairs


def _tried(session: Session, person: int, after: int) -> list[tuple[float, int]]:
    """The scores of the first answers to gold tasks; a skipped task has none right."""
    query = select(Label.kind, Label.content, Item.gold).join(Item, Item.id == Label.item_id)
    query = query.where(Label.person_id == person, Label.id > after, Item.gold.is_not(None))
    found = []
    for kind, content, gold in session.execute(query.where(Label.replaces.is_(None)).order_by(Label.id)):
        if gold is not None:
            found.append(score(ranks_of(kind, content), gold))
    return found


def _share(tried: Sequence[tuple[float, int]]) -> float | None:
    pairs = sum(count for _, count in tried)
    return sum(alike for alike, _ in tried) / pairs if pairs else None


def _last(session: Session, person: int) -> Calibration | None:
    query = select(Calibration).where(Calibration.person_id == person)
    return session.scalars(query.order_by(Calibration.id.desc()).limit(1)).first()


def _say(session: Session, person: Person, said: str, share: float | None) -> None:
    newest = session.scalar(select(func.max(Label.id))) or 0
    session.add(Calibration(person_id=person.id, said=said, share=share, last_label=newest))
    session.flush()
