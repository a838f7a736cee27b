"""Win rates between two policies on the same prompts, also with length taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.stats.bootstrap import CHUNK, TAIL, Draws, Numbers, Observation, means
from align.stats.estimate import Estimate

_STEPS = 60  # of Newton's method
_FARTHEST = 15.0  # a logit beyond it is taken for an infinite one: 3 in 10 million


@dataclass(frozen=True)
class WinRate:
    """How often the first policy is preferred, ties counted half.

    length_controlled: the same if both answers were as long; None where it is not known, and `why`.
    length_effect: the logit that a far longer answer of the first adds.
    """

    rate: Estimate
    wins: int
    ties: int
    losses: int
    length_controlled: Estimate
    length_effect: float | None = None
    why: str | None = None


def wins_of(first: Numbers, second: Numbers) -> Numbers:
    """[N] 1 where the first has the higher number, 0.5 where both are equal, else 0; nan where one is nan."""
    wins: Numbers = (first > second) + 0.5 * (first == second)
    return np.where(np.isnan(first) | np.isnan(second), np.nan, wins)


def win_rate(wins: Numbers, longer: Numbers, draws: Draws) -> WinRate:
    """wins [N] of N prompts, from 0 to 1; longer [N]: by how many characters the first answer is longer."""
    entries = [Observation(i, "wins", float(win)) for i, win in enumerate(wins)]
    rate = means(entries, len(wins), draws).get("wins", Estimate())
    counts = int((wins > 0.5).sum()), int((wins == 0.5).sum()), int((wins < 0.5).sum())
    controlled, effect, why = length_controlled(wins, longer, draws)
    return WinRate(rate, *counts, controlled, effect, why)


def length_controlled(
    wins: Numbers, longer: Numbers, draws: Draws
) -> tuple[Estimate, float | None, str | None]:
    """The win rate that a logistic model says for answers of equal length, its length effect, or why none.

    P(win) = sigmoid(a + b tanh(longer / std(longer))), fitted by maximum likelihood; the rate is sigmoid(a):
    AlpacaEval's `length_controlled_minimal` (Dubois et al. 2404.04475) without its penalty. Their full model
    has the instruction's difficulty too, which is known for their own 805 prompts alone. The interval is a
    bootstrap's over prompts, left out where more than 2.5% of the draws have no finite fit.
    """
    count = len(wins)
    if count < 2:
        return Estimate(), None, "one prompt tells nothing of lengths"
    spread = float(np.std(longer, ddof=1))
    if not spread:
        if longer[0]:
            return Estimate(), None, "all answers differ by the same length: what it adds cannot be told"
        return Estimate(), None, "all answers are equally long: the win rate is it"
    reach = np.tanh(longer / spread)
    fitted, finite = _fit(wins, reach, np.ones((1, count)))
    if not finite[0]:
        return Estimate(), None, "wins and losses, or lengths, are too one-sided for a finite fit"
    random, chunk = np.random.default_rng(0), max(1, CHUNK // count)
    parts = []
    for start in range(0, draws.number, chunk):
        size = min(chunk, draws.number - start)
        times = random.multinomial(count, np.full(count, 1 / count), size).astype(float)
        parts.append(_fit(wins, reach, times))
    rates = np.concatenate([_sigmoid(found[good, 0]) for found, good in parts])
    low = high = None
    if len(rates) >= (1 - TAIL) * draws.number:
        low, high = (float(x) for x in np.quantile(rates, (TAIL, 1 - TAIL)))
    rate = float(_sigmoid(fitted[0, 0]))
    return Estimate(rate, low, high, count, count), float(fitted[0, 1]), None


def _fit(wins: Numbers, reach: Numbers, weights: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Intercept and slope [R, 2] for each row of weights [R, N], and whether they are a finite maximum."""
    found = np.zeros((len(weights), 2))
    design = np.stack([np.ones_like(reach), reach], 1)  # [N, 2]
    size = weights.sum(1)
    for _ in range(_STEPS):
        said = _sigmoid(found @ design.T)
        slope = (weights * (wins - said)) @ design
        bend = weights * said * (1 - said)
        a, b, c = (bend.sum(1), bend @ reach, bend @ reach**2)
        room = np.maximum(a * c - b * b, 1e-12 * size**2)
        step = np.stack([c * slope[:, 0] - b * slope[:, 1], a * slope[:, 1] - b * slope[:, 0]], 1)
        step = np.clip(step / room[:, None], -2, 2)
        found = np.clip(found + step, -2 * _FARTHEST, 2 * _FARTHEST)
        if np.abs(step).max() < 1e-9:
            break
    good = (np.abs(slope).max(1) < 1e-6 * size) & (np.abs(found).max(1) < _FARTHEST)
    return found, good


def _sigmoid(x: Numbers) -> Numbers:
    return 0.5 * (1 + np.tanh(x / 2))
