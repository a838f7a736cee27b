"""Written answers that were checked before they were sent, beside those that were not."""

from __future__ import annotations

from statistics import median

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.answers import written_in
from labeling.store.models import Item, Label, standing
from labeling.store.suggestions import by_people


class WrittenAnswers(BaseModel):
    """How many answers with a written text stand, and their median seconds and characters."""

    answers: int
    seconds: float | None
    characters: float | None


class CheckUse(BaseModel):
    """Answers before which a check was asked for; `changed`: their text is another one since the last."""

    checked: WrittenAnswers
    unchecked: WrittenAnswers
    changed: int


def check_use(session: Session) -> CheckUse | None:
    """Of people's standing answers, none to gold tasks; None where nobody asked for a check."""
    query = select(Label.kind, Label.content, Label.seconds, Label.checks)
    query = query.join(Item, Item.id == Label.item_id).where(standing(), by_people(), Item.gold.is_(None))
    query = query.where(Label.adjudicates.is_(False), Label.kind.in_(("rank", "correct", "demonstrate")))
    groups: dict[bool, list[tuple[str, float | None]]] = {True: [], False: []}
    changed = 0
    for kind, content, seconds, checks in session.execute(query.execution_options(yield_per=1000)):
        written = written_in(kind, content)
        if written is not None:
            groups[bool(checks)].append((written[0], seconds))
            changed += bool(checks) and checks[-1]["changed"]
    if not groups[True]:
        return None
    return CheckUse(checked=_written(groups[True]), unchecked=_written(groups[False]), changed=changed)


def _written(answers: list[tuple[str, float | None]]) -> WrittenAnswers:
    seconds = [seconds for _, seconds in answers if seconds is not None]
    return WrittenAnswers(
        answers=len(answers),
        seconds=median(seconds) if seconds else None,
        characters=median(len(text) for text, _ in answers) if answers else None,
    )
