"""Whether the reward model's probabilities mean what they say, and the temperature that mends them.

p(i is better than j) = sigmoid((s_i - s_j) / T); T = 1 is what training assumes. A margin is the score of
the response that people preferred, less that of the other: log p of what happened is log sigmoid(margin / T).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from align.evaluation.draws import SeededDraws, known
from align.seeds import generator
from align.stats.bootstrap import Observation, means
from align.stats.estimate import Estimate

BINS = 15  # as in Guo et al. 2017
_SMALLEST, _LARGEST = 0.01, 100.0  # root mean square of margin / T, between which T is looked for


@dataclass(frozen=True)
class Bin:
    """Comparisons of which the model says about the same: its mean probability, and what people said.

    `count` is in orientations: each comparison stands in two bins, as (a, b) and as (b, a).
    """

    low: float
    high: float
    count: int
    probability: float
    observed: float
    observed_low: float
    observed_high: float


@dataclass(frozen=True)
class Fit:
    """How well probabilities fit what people preferred."""

    log_loss: Estimate  # nats a comparison; ln 2 for guessing
    brier: Estimate  # mean of (1 - p)^2; 0.25 for guessing
    ece: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Calibration:
    """The fit as it is (`raw`), and with a temperature that the other half of the prompts gave (`scaled`)."""

    temperature: float  # fitted on all comparisons
    at_bound: bool  # all comparisons right, or no better than chance: no finite T is the best
    halves: tuple[float, float] | None
    raw: Fit
    scaled: Fit | None


def calibrate(margins: Sequence[float], prompts: Sequence[int], seed: int) -> Calibration:
    """Measure the fit of the margins, and how much one temperature mends it.

    prompts: the number of each comparison's prompt, from 0. The temperature is fitted on one half of
    the prompts and measured on the other, both ways round, so that nothing is measured on what it was
    fitted to; the one that is given out is fitted on all.
    """
    z = torch.tensor(margins, dtype=torch.float64)
    temperature, at_bound = fit_temperature(z)
    raw = fit(z, prompts, seed)
    first = _first_half(prompts, seed)
    if first is None:
        return Calibration(temperature, at_bound, None, raw, None)
    one, other = fit_temperature(z[first])[0], fit_temperature(z[~first])[0]
    scaled = torch.where(first, z / other, z / one)
    return Calibration(temperature, at_bound, (one, other), raw, fit(scaled, prompts, seed))


def fit(z: Tensor, prompts: Sequence[int], seed: int) -> Fit:
    """Log loss, Brier score, calibration error and reliability of p = sigmoid(z), z [N] float64."""
    count = max(prompts, default=-1) + 1
    losses, squares = softplus(-z).tolist(), torch.sigmoid(-z).square().tolist()
    entries = [Observation(p, "log loss", value) for p, value in zip(prompts, losses, strict=True)]
    entries += [Observation(p, "brier", value) for p, value in zip(prompts, squares, strict=True)]
    found = means(entries, count, SeededDraws(seed=seed), bounds=None)
    bins = reliability(z, prompts, seed)
    total = sum(b.count for b in bins)
    ece = sum(b.count * abs(b.probability - b.observed) for b in bins if b.count)
    return Fit(
        found.get("log loss", Estimate()),
        found.get("brier", Estimate()),
        ece / total if total else float("nan"),
        bins,
    )


def reliability(z: Tensor, prompts: Sequence[int], seed: int) -> tuple[Bin, ...]:
    """BINS bins of equal width over the probability that the first of two responses is the better one.

    Which of the two is first means nothing, so each comparison enters both ways: with probability p =
    sigmoid(z) and outcome 1, and with 1 - p and outcome 0, the second in the mirror image of the first's
    bin. So bins b and BINS - 1 - b mirror each other. The expected calibration error is the mean of
    |probability - observed|, each bin weighted by its count.
    """
    p = torch.sigmoid(z)
    # A margin of 0 is in the middle bin by BINS being odd, and 1.0 itself belongs to the last one.
    at = (p * BINS).long().clamp(max=BINS - 1).tolist()
    said = p.tolist()
    both = [(prompt, b, x, 1.0) for prompt, b, x in zip(prompts, at, said, strict=True)]
    both += [(prompt, BINS - 1 - b, 1 - x, 0.0) for prompt, b, x, _ in both]
    entries = [Observation(row, b, o) for row, b, _, o in both]
    outcomes = means(entries, max(prompts, default=-1) + 1, SeededDraws(seed=seed))
    sums = [0.0] * BINS
    for _, b, x, _ in both:
        sums[b] += x
    bins = []
    for b, total in enumerate(sums):
        seen = outcomes.get(b, Estimate())
        mean = total / seen.count if seen.count else float("nan")
        people = (known(number) for number in (seen.value, seen.low, seen.high))
        bins.append(Bin(b / BINS, (b + 1) / BINS, seen.count, mean, *people))
    return tuple(bins)


def fit_temperature(margins: Tensor) -> tuple[float, bool]:
    """The T that minimises the mean of -log sigmoid(margin / T), and whether it stands at a bound.

    margins [N] float64. The mean is convex in a = 1 / T; its root is found by Newton's method, kept
    inside a bracket. Where no finite T is best (all margins are right, or they are no better than
    chance) it is the bound: margins / T then have a root mean square of 100, or of 0.01. Where all
    margins are 0 any T is as good, and it is 1. nan without margins.
    """
    if not len(margins):
        return float("nan"), True
    size = float(margins.square().mean().sqrt())
    if not size:
        return 1.0, True
    scaled = margins / size

    def slope(a: float) -> float:
        return -float((scaled * torch.sigmoid(-a * scaled)).mean())

    low, high = _SMALLEST, _LARGEST
    if slope(low) >= 0:
        return size / low, True
    if slope(high) <= 0:
        return size / high, True
    a = 1.0
    for _ in range(200):
        gradient = slope(a)
        low, high = (a, high) if gradient < 0 else (low, a)
        wrong = torch.sigmoid(-a * scaled)
        curvature = float((scaled.square() * wrong * (1 - wrong)).mean())
        step = a - gradient / curvature if curvature else low
        new = step if low < step < high else (low + high) / 2
        if abs(new - a) <= 1e-14 * a:
            break
        a = new
    return size / a, False


def _first_half(prompts: Sequence[int], seed: int) -> Tensor | None:
    """[N] True where a comparison belongs to the first half of the prompts; None for less than two."""
    different = sorted(set(prompts))
    if len(different) < 2:
        return None
    drawn = torch.randperm(len(different), generator=generator(seed, "temperature")).tolist()
    first = {different[i] for i in drawn[: len(different) // 2]}
    return torch.tensor([prompt in first for prompt in prompts])
