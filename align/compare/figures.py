"""From answers, a row each, to everything that evaluation.json says. Numbers alone: no model, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import stdev
from typing import Any

import numpy as np

from align.stats.best_of_n import best_of, kl_of_best, n_at_kl
from align.stats.bootstrap import Draws, Numbers, Observation, Tally, means
from align.stats.estimate import Estimate
from align.stats.variety import distinct, repetition
from align.stats.win_rates import WinRate, win_rate, wins_of

Row = Mapping[str, Any]
_SHARES = ("no_eos", "repetition")
_DRAWS = Draws()
_UNKNOWN = "no prompt has a verdict"


@dataclass(frozen=True)
class Answers:
    """The rows of all policies, prompt by prompt in one order.

    first: of each policy, its first answer to every prompt. best: all answers [P * N] of the reference, where
    best-of-n was asked for. names: of the scores that every row has. reference: what KL is measured to.
    """

    first: Mapping[str, Sequence[Row]]
    best: Sequence[Row]
    names: Sequence[str]
    reference: str | None

    @property
    def judged_by(self) -> list[str]:
        """The scores by which answers win: not the parts of a sum."""
        return [name for name in self.names if not name.startswith("reward/")]


def column(rows: Sequence[Row], name: str) -> Numbers:
    """A number of each row [P]; nan where it has none."""
    return np.array([math.nan if (x := value(row, name)) is None else x for row in rows], float)


def value(row: Row, name: str) -> float | None:
    """A number of one row, read or counted."""
    if name == "no_eos":
        return float(not row["ended"])
    if name == "repetition":
        return repetition(row["response"])
    found = row.get(name)
    return None if found is None else float(found)


def policy_figures(answers: Answers) -> dict[str, dict[str, Any]]:
    """Of each policy the mean of each number, with a 95% interval over prompts."""
    numbers = [*answers.names, "kl", "kl_exact", "tokens", "entropy"]
    found = _means({(label, n): column(rows, n) for label, rows in answers.first.items() for n in numbers})
    found |= _means(
        {(label, n): column(rows, n) for label, rows in answers.first.items() for n in _SHARES}, (0.0, 1.0)
    )
    document: dict[str, dict[str, Any]] = {}
    for label, rows in answers.first.items():
        texts = [row["response"] for row in rows]
        document[label] = {
            name: found[label, name] for name in (*numbers, *_SHARES) if (label, name) in found
        }
        document[label] |= {f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}
        for name in ("kl", "kl_exact"):
            document[label][f"{name}_se"] = standard_error(column(rows, name))
    return document


def standard_error(values: Numbers) -> float | None:
    """Of the mean of the numbers that are known; None of fewer than two."""
    known = values[~np.isnan(values)].tolist()
    return stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None


def differences(answers: Answers) -> list[dict[str, Any]]:
    """Of every pair of policies: the later one's numbers less the earlier one's, prompt by prompt."""
    numbers = [*answers.names, "tokens", "entropy"]
    pairs = list(combinations(answers.first, 2))
    found = _means(
        {
            (one, other, n): column(answers.first[other], n) - column(answers.first[one], n)
            for one, other in pairs
            for n in numbers
        }
    )
    return [
        {
            "policy": other,
            "less": one,
            "figures": {n: found[one, other, n] for n in numbers if (one, other, n) in found},
        }
        for one, other in pairs
    ]


def win_rates(answers: Answers) -> list[dict[str, Any]]:
    """Of every pair of policies: how often the later one's answer has the higher number, by each of them."""
    found = []
    for one, other in combinations(answers.first, 2):
        for name in answers.judged_by:
            wins = wins_of(column(answers.first[other], name), column(answers.first[one], name))
            found.append(_won(answers, other, one, name, wins))
    return found


def unknown_scores(answers: Answers) -> dict[str, tuple[int, int]]:
    """Of each score that was no number somewhere: how many answers lack it, of how many."""
    rows = [row for mine in answers.first.values() for row in mine] + list(answers.best)
    missing = {name: sum(value(row, name) is None for row in rows) for name in answers.names}
    return {name: (count, len(rows)) for name, count in missing.items() if count}


def judged_wins(
    answers: Answers, policy: str, against: str, by: str, wins: Sequence[float | None]
) -> dict[str, Any]:
    """The same from somebody's verdicts, one for each prompt; None where there is none."""
    values = np.array([math.nan if x is None else x for x in wins], float)
    return _won(answers, policy, against, by, values)


def _won(answers: Answers, policy: str, against: str, by: str, wins: Numbers) -> dict[str, Any]:
    """wins [P]: nan where nothing is known, which is left out."""
    sizes = [
        np.array([len(row["response"]) for row in answers.first[label]], float) for label in (policy, against)
    ]
    known = ~np.isnan(wins)
    wins, longer = wins[known], (sizes[0] - sizes[1])[known]
    rate = (
        win_rate(wins, longer, _DRAWS)
        if len(wins)
        else WinRate(Estimate(), 0, 0, 0, Estimate(), None, _UNKNOWN)
    )
    return {"policy": policy, "against": against, "by": by, "win_rate": rate}


def best_of_n(answers: Answers, kl: Mapping[str, float | None]) -> dict[str, Any] | None:
    """Best-of-n of the reference by the score: its curve, and beside each policy at the policy's KL.

    kl: of each policy that is to be compared, in nats a response. The n that has a policy's KL is taken as
    given in the intervals. None where there is no score, or where best-of-n was not asked for.
    """
    if not answers.best or not answers.names or answers.names[0] != "score":
        return None
    prompts = len(next(iter(answers.first.values())))
    grid = {n: column(answers.best, n).reshape(prompts, -1) for n in (*answers.names, "tokens")}
    drawn = grid["score"].shape[1]
    steps = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if n < drawn] + [drawn]
    curve = []
    for step in steps:
        found = _means({name: best_of(grid["score"], values, step) for name, values in grid.items()})
        curve.append({"n": step, "kl": kl_of_best(step), "figures": found})
    beside = []
    for label, nats in kl.items():
        if nats is None:
            continue
        wanted = n_at_kl(nats)
        n = min(wanted, float(drawn))
        own = {name: column(answers.first[label], name) for name in grid}
        best = {name: best_of(grid["score"], values, n) for name, values in grid.items()}
        beside.append(
            {
                "policy": label,
                "kl": nats,
                "n": n,
                "beyond": wanted > drawn,
                "n_wanted": wanted,
                "figures": _means(best),
                "difference": _means({name: own[name] - best[name] for name in grid}),
            }
        )
    return {"samples": drawn, "most_kl": kl_of_best(drawn), "curve": curve, "policies": beside}


def perplexities(rows: Mapping[str, Sequence[Row]], reference: str | None) -> dict[str, dict[str, Any]]:
    """Of each policy on what people wrote: perplexity a token, and its nats a token less the reference's."""
    count = len(next(iter(rows.values()), ()))
    if not count:
        return {}
    tally, at = Tally(count), np.arange(count)
    tokens = column(next(iter(rows.values())), "tokens")
    nats = {label: column(mine, "nats") for label, mine in rows.items()}
    for label, mine in nats.items():
        tally.add(label, at, mine, tokens, count, None)
        if reference in nats and label != reference:
            tally.add((label, "more"), at, mine - nats[reference], tokens, count, None)
    found = tally.estimates(_DRAWS)
    document: dict[str, dict[str, Any]] = {}
    for label in nats:
        one = found[label]
        low, middle, high = (
            None if x is None else math.exp(min(x, 700)) for x in (one.low, one.value, one.high)
        )
        document[label] = {"perplexity": Estimate(middle, low, high, one.count, one.prompts)}
        if (label, "more") in found:
            document[label]["more_nats"] = found[label, "more"]
    return document


def _means(columns: Mapping[Any, Numbers], bounds: tuple[float, float] | None = None) -> dict[Any, Estimate]:
    """Each column's mean over the prompts that have the number, all by the same draws of prompts."""
    prompts = max((len(values) for values in columns.values()), default=0)
    entries = [
        Observation(i, name, float(x))
        for name, values in columns.items()
        for i, x in enumerate(values)
        if not math.isnan(x)
    ]
    return dict(means(entries, prompts, _DRAWS, bounds)) if prompts else {}
