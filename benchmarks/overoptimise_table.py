"""What the runs of overoptimise.py show: which fell, the law, what protection kept, when the alarm came.

How it counts, chosen before the runs. 0 is the gold score of the policy after sft, so a gold score is a
gain. Curves are running means over SMOOTH iterations. A run falls if the mean of its last SMOOTH iterations
is under 0.9 of its peak; it has fallen from the first iteration that is under 0.9 of the highest before it
(once it has come half the way to its peak). The alarm is that of ppo (align.stats.overoptimisation). It is
early if it comes by that iteration, and false if the run does not fall. What keeps the best keeps the
evaluation that the guard likes best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np

from align.stats.overoptimisation import WINDOW, overoptimised

SMOOTH = 9  # iterations
FALL = 0.1  # of the peak
KEPT = 0.95  # of the best gold score
Rows = Sequence[dict[str, Any]]
Cell = tuple[int, int, float]  # gold, labels, share of them that is wrong


@dataclass(frozen=True)
class Law:
    """R(d) = d (alpha - beta log d), d the root of KL (2210.10760), and how much of R it tells."""

    alpha: float
    beta: float
    r2: float


@dataclass(frozen=True)
class Outcome:
    """One run. Iterations count from 1; None: never."""

    peak: float  # gold
    end: float
    best: float  # gold of the evaluation that the guard likes best
    proxy_end: float
    kl_end: float
    fell: int | None
    alarm: int | None
    ideal_alarm: int | None  # if gold itself were the guard: what the rule can do, apart from the guard
    law: Law


Found = Sequence[tuple[dict[str, Any], Outcome]]


def outcome(row: dict[str, Any]) -> Outcome:
    curves, every = row["curves"], row["every"]
    gold = smooth(curves["gold"])
    end = fmean(curves["gold"][-SMOOTH:])
    evaluated = [min(every * (i + 1), len(gold)) for i in range(len(curves["guard_held_out"]))]
    best = max(range(len(evaluated)), key=lambda i: curves["guard_held_out"][i])
    return Outcome(
        peak=max(gold),
        end=end,
        best=gold[min(evaluated[best], len(gold) - 1)],  # the next rollout is by what was evaluated
        proxy_end=fmean(curves["proxy"][-SMOOTH:]),
        kl_end=fmean(curves["kl"][-SMOOTH:]),
        fell=_fell(gold) if end < (1 - FALL) * max(gold) else None,
        alarm=alarm(curves["proxy"], curves["guard"]),
        ideal_alarm=alarm(curves["proxy"], curves["gold"]),
        law=fit(curves["kl"], curves["gold"]),
    )


def smooth(values: Sequence[float]) -> list[float]:
    """Each value's mean with its neighbours on both sides, as many as there are."""
    reach = SMOOTH // 2
    return [fmean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def _fell(gold: Sequence[float]) -> int | None:
    highest = -math.inf
    for i, value in enumerate(gold):
        highest = max(highest, value)
        if highest > max(gold) / 2 and value < (1 - FALL) * highest:
            return i + 1
    return None


def alarm(proxy: Sequence[float], guard: Sequence[float]) -> int | None:
    """The first iteration after which ppo warns."""
    lengths = range(2 * WINDOW, len(guard) + 1)
    return next((n for n in lengths if overoptimised(proxy[:n], guard[:n])), None)


def fit(kl: Sequence[float], gold: Sequence[float]) -> Law:
    """Least squares over the iterations whose KL is more than 0."""
    known = [(math.sqrt(k), g) for k, g in zip(kl, gold, strict=True) if k > 0]
    d, reached = (np.array(column) for column in zip(*known, strict=True))
    terms = np.stack([d, -d * np.log(d)], 1)
    (alpha, beta), *_ = np.linalg.lstsq(terms, reached, rcond=None)
    errors = reached - terms @ [alpha, beta]
    return Law(float(alpha), float(beta), float(1 - errors.var() / reached.var()))


def table(rows: Rows) -> str:
    """Markdown: the runs by kind, labels and arm, a line for each expectation, and the law."""
    found = [(row, outcome(row)) for row in rows]
    return "\n".join([*_by_arm(found), "", *_protection(found), "", *_alarms(found), "", *_laws(found)])


def _by_arm(found: Found) -> list[str]:
    lines = [
        "| repeats | labels | wrong | arm | runs | accuracy | peak | end | fell | KL at the end |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in _grouped(found, "kind", "size", "noise", "arm"):
        kind, size, noise, arm = key
        ends = [one for _, one in group]
        accuracy = fmean(row["accuracy"] for row, _ in group)
        fell = sum(one.fell is not None for one in ends)
        lines.append(
            f"| {kind} | {size} | {noise:.0%} | {arm} | {len(ends)} | {accuracy:.2f} "
            f"| {_mean(one.peak for one in ends)} | {_mean(one.end for one in ends)} "
            f"| {fell} | {fmean(one.kl_end for one in ends):.0f} |"
        )
    return lines


def _grouped(found: Found, *keys: str) -> Iterator[tuple[tuple[Any, ...], list[tuple[Any, Outcome]]]]:
    def key(one: tuple[Any, Outcome]) -> tuple[Any, ...]:
        return tuple(one[0][name] for name in keys)

    for value, group in groupby(sorted(found, key=key), key):
        yield value, list(group)


def _mean(values: Iterable[float]) -> str:
    return f"{fmean(values):.2f}".replace("-", "−")


PROTECTION: dict[str, tuple[str, Callable[[Outcome], float]]] = {
    "guard of other pairs, keep: best": ("free", lambda one: one.best),
    "guard that knows the policy's answers, keep: best": ("again", lambda one: one.best),
    "members and sigmoid": ("protected", lambda one: one.end),
    "members and sigmoid, keep: best": ("protected", lambda one: one.best),
    "members, sigmoid and kl_coef 0.05": ("held", lambda one: one.end),
    "members, sigmoid and kl_coef 0.05, keep: best": ("held", lambda one: one.best),
}


def _protection(found: Found) -> list[str]:
    """Of the runs that fall without protection, how many of their like have not fallen with it."""
    free = {_cell(row): one for row, one in found if row["arm"] == "free"}
    lines = [
        "| of runs whose like falls as `free` | final/ has not fallen | it has 95% of the best gold score |",
        "|---|---|---|",
    ]
    for name, (arm, kept) in PROTECTION.items():
        mine = [(free.get(_cell(row)), one) for row, one in found if row["arm"] == arm]
        if arm == "again":  # it is a free run itself, of another seed
            mine = [(one, one) for _, one in mine]
        with_it = [(before, one) for before, one in mine if before and before.fell is not None]
        stayed = sum(kept(one) >= (1 - FALL) * one.peak for _, one in with_it)
        good = sum(kept(one) >= KEPT * before.peak for before, one in with_it)
        lines.append(f"| {name} | {share(stayed, len(with_it))} | {share(good, len(with_it))} |")
    return lines


def _cell(row: dict[str, Any]) -> Cell:
    return row["gold"], row["size"], row["noise"]


def _alarms(found: Found) -> list[str]:
    lines = [
        "| guard | runs that fall: an alarm | before 10% of the gain is lost | runs that do not: an alarm |",
        "|---|---|---|---|",
    ]
    of_others = [(one.alarm, one.fell) for row, one in found if row["arm"] != "again"]
    fresh = [(one.alarm, one.fell) for row, one in found if row["arm"] == "again"]
    ideal = [(one.ideal_alarm, one.fell) for _, one in found]
    guards = {"other pairs": of_others, "half the policy's answers": fresh, "gold itself": ideal}
    for name, runs in guards.items():
        falls = [(rang, fell) for rang, fell in runs if fell is not None]
        heard = sum(rang is not None for rang, _ in falls)
        early = sum(rang is not None and rang <= fell for rang, fell in falls)
        calm = [rang for rang, fell in runs if fell is None]
        false = sum(rang is not None for rang in calm)
        shares = ((heard, len(falls)), (early, len(falls)), (false, len(calm)))
        lines.append(f"| {name} | " + " | ".join(share(*one) for one in shares) + " |")
    return lines


def share(right: int, of: int) -> str:
    """With its 95% interval (Wilson, 1927)."""
    if not of:
        return "no such run"
    p, z = right / of, 1.96
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = ((middle + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return f"{right} of {of} ({max(low, 0):.0%} to {min(high, 1):.0%})"


def _laws(found: Found) -> list[str]:
    """Of the free runs."""
    lines = ["| repeats | labels | wrong | runs | alpha | beta | R² |", "|---|---|---|---|---|---|---|"]
    free = [one for one in found if one[0]["arm"] == "free"]
    for (kind, size, noise), group in _grouped(free, "kind", "size", "noise"):
        laws = [one.law for _, one in group]
        columns = ([law.alpha for law in laws], [law.beta for law in laws], [law.r2 for law in laws])
        shown = " | ".join(_range(column) for column in columns)
        lines.append(f"| {kind} | {size} | {noise:.0%} | {len(laws)} | {shown} |")
    return lines


def _range(values: Sequence[float]) -> str:
    """The median with the least and the most."""
    if len(values) == 1:
        return f"{values[0]:.2f}".replace("-", "−")
    shown = (float(np.median(values)), min(values), max(values))
    return "{:.2f} ({:.2f} to {:.2f})".format(*shown).replace("-", "−")
