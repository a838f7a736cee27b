"""Who else says which answer is better: a judge model, and people in the labeling app."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console

from align.compare import figures
from align.compare.figures import Answers
from align.compare.policies import Policy
from align.errors import UserError
from align.evaluation.judge import Judged, Question, ask, text_of
from align.loop.queues import labeling_package
from align.recipe.evaluate import Judge
from align.recipe.sections import Recipe
from align.run.progress import ProgressBar
from align.stats.win_rates import wins_of

Note = Callable[[str], None]
KEPT = "judge.jsonl"
_VERDICTS = {1.0: "first", 0.0: "second"}


def by_judge(
    judge: Judge | None, answers: Answers, folder: Path, note: Note, console: Console
) -> dict[str, Any]:
    """Win rates and ratings by the recipe's judge model: all pairs of policies, all prompts, both orders."""
    if judge is None:
        return {}
    pairs = list(combinations(answers.first, 2))
    if not pairs:
        note("the judge has nothing to compare: there is one policy")
        return {}
    questions = [
        Question(text_of(one["prompt"]), two["response"], one["response"])
        for earlier, later in pairs
        for one, two in zip(answers.first[earlier], answers.first[later], strict=True)
    ]
    with ProgressBar(console, "judge", 2 * len(questions)) as bar:
        judged = ask(judge, questions, folder / KEPT, bar.advance)
    count = len(next(iter(answers.first.values())))
    wins, verdicts = [], []
    for i, (earlier, later) in enumerate(pairs):
        mine = judged[i * count : (i + 1) * count]
        values = [one.value for one in mine]
        wins.append(figures.judged_wins(answers, later, earlier, "judge", values) | _told(mine))
        verdicts += [
            (row, later, earlier, x)
            for row, one in enumerate(mine)
            if one.value is not None
            for x in (one.straight, one.turned)
            if x is not None
        ]
    lost = sum(one.value is None for one in judged)
    if lost:
        note(
            f"the judge gave no verdict on {lost} of {len(judged)} comparisons, which are left out "
            f"({folder / KEPT} has its replies)"
        )
    return {"model": judge.model, "wins": wins, "ratings": _ratings(verdicts, list(answers.first), note)}


def _told(judged: Sequence[Judged]) -> dict[str, int]:
    """How the judge behaved: no verdict, other verdicts in the other order, and the answer shown first."""
    both = [(one.straight, one.turned) for one in judged if one.value is not None]
    return {
        "no_verdict": len(judged) - len(both),
        "inconsistent": sum(straight != turned for straight, turned in both),
        "shown_first_won": sum((a == 1) + (b == 0) for a, b in both),
        "shown_second_won": sum((a == 0) + (b == 1) for a, b in both),
    }


def ratings_of(answers: Answers, note: Note) -> dict[str, Any]:
    """Bradley-Terry ratings of the policies by each score, from all pairs on all prompts."""
    if len(answers.first) < 2:
        return {}
    found = {}
    for name in answers.judged_by:
        columns = {label: figures.column(rows, name) for label, rows in answers.first.items()}
        verdicts = [
            (row, later, earlier, float(x))
            for earlier, later in combinations(columns, 2)
            for row, x in enumerate(wins_of(columns[later], columns[earlier]))
            if not math.isnan(x)
        ]
        found[name] = _ratings(verdicts, list(answers.first), note)
    return {name: one for name, one in found.items() if one}


def _ratings(
    verdicts: Sequence[tuple[int, str, str, float]], names: Sequence[str], note: Note
) -> dict[str, Any]:
    """Ratings with intervals by policy, or why there are none; empty without the labeling app's libraries."""
    try:
        module = labeling_package("labeling.figures.ratings")
    except UserError as error:
        told = f"there are no Bradley-Terry ratings: {error}"
        note(told)
        return {}
    given = [module.PolicyVerdict(row, a, b, _VERDICTS.get(x, "tie")) for row, a, b, x in verdicts]
    prompts = max((row for row, *_ in verdicts), default=-1) + 1
    found, why = module.ratings(given, list(names), prompts)
    return {"policies": dict(zip(names, found, strict=True)), "why_not": why}


def by_people(recipe: Recipe, policies: Sequence[Policy], note: Note) -> dict[str, Any]:
    """What people's blind comparisons in the labeling database say, of all policies that they compared.

    Ours stand by their labels too. Empty where there is no database, or nothing in it was compared.
    """
    address = recipe.labeling.database or str(recipe.run.path / "labeling.db")
    if "://" not in address and not Path(address).is_file():
        return {}
    try:
        engine, compute = (
            labeling_package(f"labeling.{name}") for name in ("store.engine", "figures.compute")
        )
        with closing(engine.Store(address)) as store, store.read() as session:
            found = compute.figures(session).policies
    except UserError as error:
        note(f"people's comparisons are left out: {error}")
        return {}
    if not found.comparisons:
        return {}
    labels = {policy.origin: policy.label for policy in policies}
    rows = [
        {
            "origin": one.name,
            "policy": labels.get(one.name),
            "win_rate": one.win_rate,
            "rating": one.rating,
        }
        for one in found.policies
    ]
    return {"comparisons": found.comparisons, "why_not": found.unrated, "policies": rows}
