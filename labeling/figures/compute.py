"""All figures, from what the database has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from datetime import date, timedelta

import numpy as np
from sqlalchemy.orm import Session

from align.stats.bootstrap import Draws, Tally
from align.stats.estimate import Estimate
from labeling.answers import KINDS
from labeling.figures.checks import check_use
from labeling.figures.gather import Material, StandingAnswer, gather, standing_answers
from labeling.figures.rankings import (
    PersonsRanking,
    add_gold,
    add_leave_one_out,
    add_pairwise,
    alpha,
    alpha_of_ranks,
    couples,
)
from labeling.figures.reliability import team_reliability
from labeling.figures.shapes import (
    Agreement,
    Day,
    Figures,
    OwnFigures,
    PersonFigures,
    Policies,
    Progress,
    Spread,
)
from labeling.figures.suggestion_effect import measured_effect
from labeling.store.models import Person

Estimates = Mapping[Hashable, Estimate]
_DAYS = 30


def figures(session: Session) -> Figures:
    """Of everybody's work."""
    material = gather(session)
    people = [answer for answer in material.answers if not answer.adjudicates]
    given = [answer for answer in people if answer.kind != "skip"]
    rankings = _rankings(material, given)
    estimates = _estimates(material, rankings)
    return Figures(
        progress=_progress(material),
        gold_tasks=material.gold,
        days=_days([answer.day for answer in given]),
        people=_people(material, estimates),
        seconds=_seconds(given),
        agreement=_agreement(material, given, rankings, estimates),
        reliability=team_reliability(material, given),
        policies=_policies(material, given),
        checks=check_use(session),
        sway=measured if (measured := measured_effect(session)).met else None,
    )


def own(session: Session, person: Person) -> OwnFigures:
    """What a person may see of their own work: nothing of which tasks are gold, or of what others say."""
    answers = [answer for answer in standing_answers(session, person.id) if not answer.adjudicates]
    given = [answer for answer in answers if answer.kind != "skip"]
    return OwnFigures(
        answers=_by_kind(given),
        skipped=len(answers) - len(given),
        seconds=_seconds(given),
        days=_days([answer.day for answer in given]),
    )


def _progress(material: Material) -> list[Progress]:
    return [
        Progress(
            kind=kind,
            tasks=material.kinds[kind],
            **{state: material.places.get((kind, state), 0) for state in ("done", "leased", "free")},
        )
        for kind in KINDS
        if kind in material.kinds
    ]


def _days(days: Sequence[date]) -> list[Day]:
    """The last days up to the newest answer, those without answers too."""
    if not days:
        return []
    counts, last = Counter(days), max(days)
    first = max(min(days), last - timedelta(days=_DAYS - 1))
    span = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    return [Day(day=day, answers=counts[day]) for day in span]


def _seconds(given: Sequence[StandingAnswer]) -> dict[str, Spread]:
    """By kind."""
    found: dict[str, list[float]] = {}
    for answer in given:
        if answer.seconds is not None:
            found.setdefault(answer.kind, []).append(answer.seconds)
    return {kind: _spread(found[kind]) for kind in KINDS if kind in found}


def _spread(values: Sequence[float]) -> Spread:
    lower, median, upper = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median=median, lower=lower, upper=upper, count=len(values))


def _by_kind(given: Sequence[StandingAnswer]) -> dict[str, int]:
    counts = Counter(answer.kind for answer in given)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _rankings(material: Material, given: Sequence[StandingAnswer]) -> list[PersonsRanking]:
    """Answers that order responses, gold ones too."""
    return [
        PersonsRanking(answer.task, material.tasks[answer.task].prompt, answer.person, answer.ranks)
        for answer in given
        if answer.ranks is not None
    ]


def _estimates(material: Material, rankings: Sequence[PersonsRanking]) -> Estimates:
    gold = {id: task.gold for id, task in material.tasks.items() if task.gold is not None}
    plain = [ranking for ranking in rankings if ranking.task not in gold]
    tally = Tally(material.prompts)
    for kind in ("rank", "compare"):
        add_pairwise(tally, kind, couples(r for r in plain if material.tasks[r.task].kind == kind))
    add_leave_one_out(tally, plain)
    add_gold(tally, rankings, gold)
    return tally.estimates(Draws())


def _people(material: Material, estimates: Estimates) -> list[PersonFigures]:
    """Those who did something, in the order in which they came."""
    gold = {id for id, task in material.tasks.items() if task.gold is not None}
    answers: dict[int, list[StandingAnswer]] = {}
    for answer in material.answers:
        answers.setdefault(answer.person, []).append(answer)
    rows = []
    for id, (name, role) in material.people.items():
        mine = answers.get(id, [])
        if not mine and id not in material.withdrawn:
            continue
        given = [answer for answer in mine if answer.kind != "skip" and not answer.adjudicates]
        plain = [answer for answer in given if answer.task not in gold]
        rows.append(
            PersonFigures(
                name=name,
                role=role,
                answers=_by_kind(plain),
                gold_answers=len(given) - len(plain),
                skipped=sum(answer.kind == "skip" for answer in mine),
                withdrawn=material.withdrawn.get(id, 0),
                decided=sum(answer.adjudicates for answer in mine),
                seconds=_seconds(given),
                with_others=estimates.get(("others", id), Estimate()),
                gold=estimates.get(("gold", id), Estimate()),
            )
        )
    return rows


def _agreement(
    material: Material,
    given: Sequence[StandingAnswer],
    rankings: Sequence[PersonsRanking],
    estimates: Estimates,
) -> Agreement:
    tasks = material.tasks
    plain = [ranking for ranking in rankings if tasks[ranking.task].gold is None]
    ranked = [ranking for ranking in plain if tasks[ranking.task].kind == "rank"]
    several = Counter(ranking.task for ranking in plain)
    quality: dict[tuple[int, int], list[float]] = {}
    for answer in given:
        if answer.quality and tasks[answer.task].gold is None:
            for i, value in enumerate(answer.quality):
                if value is not None:
                    quality.setdefault((answer.task, i), []).append(value)
    return Agreement(
        rankings=estimates.get(("rank", "all"), Estimate()),
        comparisons=estimates.get(("compare", "all"), Estimate()),
        decided=estimates.get(("rank", "decided"), Estimate()),
        tau=estimates.get(("rank", "tau"), Estimate()),
        alpha_ranks=alpha_of_ranks(ranked),
        alpha_quality=alpha(quality.values()),
        tasks=sum(number > 1 for number in several.values()),
        partial=sum(None in ranking.ranks for ranking in ranked),
    )


def _policies(material: Material, given: Sequence[StandingAnswer]) -> Policies:
    found, unnamed = [], 0
    for answer in given:
        task = material.tasks[answer.task]
        if answer.choice is None or task.gold is not None:
            continue
        first, second = task.origins
        if first is None or second is None or first == second:
            unnamed += 1
        else:
            found.append((task.prompt, first, second, answer.choice))
    if not found:
        return Policies(comparisons=0, unnamed=unnamed, unrated=None, policies=[], pairings=[])
    from labeling.figures import ratings  # takes over a second

    return ratings.policies([ratings.PolicyVerdict(*comparison) for comparison in found], unnamed)
