"""How far suggestions sway people: agreement with the machine where it was shown and where it was hidden.

Plain numbers, no database.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.store.models import Item, Label, standing
from labeling.store.suggestions import HIDDEN, SEEN

_Z = 1.959964  # 95%


@dataclass(frozen=True)
class SuggestedRanking:
    """A person's ranking of a task for which something was suggested."""

    task: int
    shown: bool
    agreed: float  # share of the pairs of responses that both order alike, a tie against an order one half
    taken: bool  # exactly the suggested order
    changed: bool = False  # given anew after the suggestion was shown


@dataclass(frozen=True)
class MachineAgreement:
    """Agreement with the machine in one group. `share`, `low` and `high` are None without judgements."""

    judgements: int
    tasks: int
    taken: int
    changed: int
    share: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SuggestionEffect:
    """Both groups, and by how much more people agree when they are shown what the machine thinks."""

    shown: MachineAgreement
    hidden: MachineAgreement
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def met(self) -> bool:
        """Whether anybody has judged a task for which something was suggested."""
        return bool(self.shown.judgements or self.hidden.judgements)

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def suggestion_effect(judgements: Iterable[SuggestedRanking]) -> SuggestionEffect:
    """Mean agreement in both groups with 95% intervals, and their difference.

    Wilson's interval for each group, and Newcombe's hybrid of the two (Statistics in Medicine 17, 1998,
    method 10) for the difference. The number of observations in them is the effective one, p(1-p) divided by
    the variance of the mean between tasks, and at most the number of tasks: several people's answers to one
    task are no independent observations.
    """
    groups: dict[bool, list[SuggestedRanking]] = {True: [], False: []}
    for judgement in judgements:
        groups[judgement.shown].append(judgement)
    shown, hidden = _agreement(groups[True]), _agreement(groups[False])
    if shown.share is None or hidden.share is None:
        return SuggestionEffect(shown, hidden)
    assert shown.low is not None and shown.high is not None
    assert hidden.low is not None and hidden.high is not None
    difference = shown.share - hidden.share
    below = math.hypot(shown.share - shown.low, hidden.high - hidden.share)
    above = math.hypot(shown.high - shown.share, hidden.share - hidden.low)
    return SuggestionEffect(shown, hidden, difference, difference - below, difference + above)


def _agreement(judgements: Sequence[SuggestedRanking]) -> MachineAgreement:
    tasks: dict[int, list[float]] = {}
    for judgement in judgements:
        tasks.setdefault(judgement.task, []).append(judgement.agreed)
    count = len(judgements)
    taken, changed = sum(j.taken for j in judgements), sum(j.changed for j in judgements)
    if not count:
        return MachineAgreement(0, 0, 0, 0)
    share = sum(judgement.agreed for judgement in judgements) / count
    variance = sum(sum(agreed - share for agreed in task) ** 2 for task in tasks.values()) / count**2
    effective = float(len(tasks))
    if variance > 0:
        effective = min(effective, share * (1 - share) / variance)
    return MachineAgreement(count, len(tasks), taken, changed, share, *_wilson(share, effective))


def _wilson(share: float, count: float) -> tuple[float, float]:
    spread = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    middle, scale = share + _Z**2 / (2 * count), 1 + _Z**2 / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def judgements(session: Session) -> list[SuggestedRanking]:
    """People's standing answers that a suggestion goes with, shown or hidden; to no gold tasks."""
    columns = (Label.item_id, Label.suggestion_shown, Label.suggestion_agreed, Label.suggestion_taken)
    query = select(*columns).join(Item, Item.id == Label.item_id).where(standing(), Item.gold.is_(None))
    query = query.where(Label.suggestion_agreed.is_not(None))  # a machine's own have none
    return [
        SuggestedRanking(item, how != HIDDEN, agreed or 0.0, bool(taken), how == SEEN)
        for item, how, agreed, taken in session.execute(query.order_by(Label.id))
    ]


def measured_effect(session: Session) -> SuggestionEffect:
    """How far suggestions have moved people, by all labels of the database."""
    return suggestion_effect(judgements(session))
