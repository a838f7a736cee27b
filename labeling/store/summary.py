"""What stands on a task, counted when something changes there: lists of many tasks read no label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased

from align.stats.rankings import disagreement
from labeling.answers import ranks_of
from labeling.store.models import Label, Summary, Verdict, standing
from labeling.store.suggestions import by_people

NOT_APART = -1.0  # of a task that no two people ordered
_TOGETHER = 500


def summarise(session: Session, items: Iterable[int]) -> None:
    """Count again what stands on these tasks, in the transaction that changed it."""
    wanted = sorted(set(items))
    session.flush()
    for start in range(0, len(wanted), _TOGETHER):
        _summarise(session, wanted[start : start + _TOGETHER])


def _summarise(session: Session, items: list[int]) -> None:
    later = aliased(Verdict)
    judged = exists().where(Verdict.label_id == Label.id, Verdict.said != "kept")
    judged = judged.where(~exists().where(later.replaces == Verdict.id))
    query = select(Label.item_id, Label.kind, Label.content, Label.adjudicates, judged)
    found: dict[int, list[tuple[str, dict[str, Any], bool, bool]]] = {item: [] for item in items}
    for item, *label in session.execute(query.where(Label.item_id.in_(items), standing(), by_people())):
        found[item].append((label[0], label[1], label[2], label[3]))
    there = {row.item_id: row for row in session.scalars(select(Summary).where(Summary.item_id.in_(items)))}
    for item, labels in found.items():
        row = there.get(item)
        if row is None:
            row = Summary(item_id=item)
            session.add(row)
        _count(row, labels)
    session.flush()


def _count(row: Summary, labels: list[tuple[str, dict[str, Any], bool, bool]]) -> None:
    own = [label for label in labels if label[0] != "skip" and not label[2]]
    orders = [ranks for kind, content, *_ in own if (ranks := ranks_of(kind, content)) is not None]
    apart, pairs = disagreement(*orders)
    row.answers = len(own)
    row.undecided = sum(not judged for *_, judged in own)
    row.skips = sum(kind == "skip" for kind, *_ in labels)
    row.flags = sum(any(content.get("flags") or ()) for _, content, *_ in labels)
    row.decided = any(adjudicates for _, _, adjudicates, _ in labels)
    row.apart = apart / pairs if pairs else NOT_APART
