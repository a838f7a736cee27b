"""Whose orders can be trusted, from people's answers and gold tasks: align.stats says how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from align.stats.bootstrap import Draws
from align.stats.habits import Habits, habits
from align.stats.reliability import Answer, LabelerReliability, reliability, votes, weight_of
from labeling.figures.gather import Material, StandingAnswer
from labeling.figures.shapes import LabelerFigures, TeamReliability

_RESPONSES = 100  # more than a task has


def team_reliability(material: Material, given: Sequence[StandingAnswer]) -> TeamReliability:
    """Of the people whose answers are given."""
    said = votes(_answers(material, given))
    found = reliability(said)
    leanings = {one.name: one for one in habits(said, found, Draws())}
    return TeamReliability(
        labelers=[_figures(one, leanings.get(one.name, Habits(one.name))) for one in found.labelers],
        one=found.one,
        majority=found.majority,
        weighted=found.weighted,
        pairs=found.pairs,
        known=found.known,
    )


def _figures(one: LabelerReliability, leaning: Habits) -> LabelerFigures:
    value = one.accuracy.value
    return LabelerFigures(
        name=one.name,
        reliability=one.accuracy,
        weight=None if value is None else weight_of(value),
        at_chance=one.at_chance,
        reversed=one.reversed,
        first_shown=leaning.first_shown,
        longer=leaning.longer,
        ties=leaning.ties,
        next_to=leaning.next_to,
        apart=leaning.apart,
    )


def _answers(material: Material, given: Sequence[StandingAnswer]) -> Iterator[Answer]:
    for answer in given:
        task, shown = material.tasks[answer.task], answer.shown
        if answer.ranks is not None:
            yield Answer(
                task.prompt,
                _keys(answer.task, len(answer.ranks)),
                answer.ranks,
                material.people[answer.person][0],
                tuple(shown.index(i) for i in range(len(shown))) if shown else None,
                task.lengths,
            )
    for id, task in material.tasks.items():
        if task.gold is not None:
            yield Answer(task.prompt, _keys(id, len(task.gold)), task.gold, None)


def _keys(task: int, responses: int) -> tuple[int, ...]:
    """A task's responses are compared with each other alone."""
    return tuple(task * _RESPONSES + i for i in range(responses))
