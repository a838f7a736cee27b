"""What the figures are, as the API gives them. What is not known is null, never NaN."""

from __future__ import annotations

from datetime import date

from pydantic import BaseModel

from align.stats.estimate import Estimate
from labeling.figures.checks import CheckUse
from labeling.figures.suggestion_effect import SuggestionEffect


class Spread(BaseModel):
    """The median and the middle half of `count` numbers."""

    median: float
    lower: float
    upper: float
    count: int


class Progress(BaseModel):
    """The tasks of one kind, gold ones left out, and their places: a task has as many as people do it."""

    kind: str
    tasks: int
    done: int
    leased: int
    free: int


class Day(BaseModel):
    """How many answers of a day stand."""

    day: date
    answers: int


class PersonFigures(BaseModel):
    """What one person did. `answers`, by kind, are those that stand; gold ones are counted apart."""

    name: str
    role: str
    answers: dict[str, int]
    gold_answers: int
    skipped: int
    withdrawn: int
    decided: int
    seconds: dict[str, Spread]
    with_others: Estimate
    gold: Estimate


class Agreement(BaseModel):
    """How far people agree with each other on tasks that several of them did."""

    rankings: Estimate
    comparisons: Estimate
    decided: Estimate
    tau: Estimate
    alpha_ranks: float | None
    alpha_quality: float | None
    tasks: int
    partial: int


class LabelerFigures(BaseModel):
    """How far a person's orders can be trusted, and which way their mistakes go: see align.stats.habits.

    `reliability` is the share of comparisons ordered right, `weight` what it makes of a label in training,
    its log odds; both are null where nothing says it.
    """

    name: str
    reliability: Estimate
    weight: float | None
    at_chance: bool
    reversed: bool
    first_shown: Estimate
    longer: Estimate
    ties: Estimate
    next_to: Estimate
    apart: Estimate


class TeamReliability(BaseModel):
    """Of everybody who ordered responses that others ordered too, or whose order is known.

    `one`, `majority` and `weighted` are how often one vote, most votes, and votes by their reliability are
    expected to be right, over the `pairs` that several decided. `known`: pairs of gold tasks.
    """

    labelers: list[LabelerFigures]
    one: float | None
    majority: float | None
    weighted: float | None
    pairs: int
    known: int


class Policy(BaseModel):
    """A policy in blind comparisons; its rating is on a scale with mean 0."""

    name: str
    comparisons: int
    win_rate: Estimate
    rating: Estimate


class Pairing(BaseModel):
    """Blind comparisons of two policies; the win rate is the first one's."""

    first: str
    second: str
    wins: int
    ties: int
    both_bad: int
    losses: int
    win_rate: Estimate


class Policies(BaseModel):
    """`unnamed`: answers to comparisons that don't say which two policies wrote the responses."""

    comparisons: int
    unnamed: int
    unrated: str | None
    policies: list[Policy]
    pairings: list[Pairing]


class Figures(BaseModel):
    """Of everybody's work, for admins and reviewers."""

    progress: list[Progress]
    gold_tasks: int
    days: list[Day]
    people: list[PersonFigures]
    seconds: dict[str, Spread]
    agreement: Agreement
    reliability: TeamReliability
    policies: Policies
    sway: SuggestionEffect | None  # of suggestions; None where nobody has met one
    checks: CheckUse | None  # of people's own answers; None where nobody asked for one

    @property
    def answers(self) -> int:
        """All that stand, gold ones too."""
        return sum(sum(person.answers.values()) + person.gold_answers for person in self.people)


class OwnFigures(BaseModel):
    """What a labeler sees of their own work."""

    answers: dict[str, int]
    skipped: int
    seconds: dict[str, Spread]
    days: list[Day]
