"""How far a reward model's scores follow the length of responses, beside what a debiasing took off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import torch
from torch import Tensor

from align.evaluation.draws import SeededDraws, known
from align.evaluation.reward import ScoredRanking, flatten, plain
from align.objectives.length_bias import correlation
from align.stats.bootstrap import Observation, means
from align.stats.estimate import Estimate

MATCHED = 0.1  # lengths of a comparison differ by at most this share of the longer one


@dataclass(frozen=True)
class LengthReport:
    """Of scores on held-out rankings; correlations are of scores and lengths within rankings."""

    accuracy: Estimate
    matched: Estimate  # accuracy on comparisons of responses of like length
    pearson: float  # of both less their ranking's mean; nan where no ranking has two lengths
    spearman: float  # of the ranks of both within their ranking, less the mean rank

    def metrics(self, of: str = "") -> dict[str, float]:
        """The scalars of metrics.jsonl; `of`: what their names end with."""
        return {
            f"eval/length_matched{of}": known(self.matched.value),
            f"eval/length_pearson{of}": self.pearson,
            f"eval/length_spearman{of}": self.spearman,
        }


def length_report(scored: Sequence[ScoredRanking], seed: int) -> LengthReport:
    """What scores have to do with length."""
    pairs = flatten(scored)
    entries = [Observation(c.prompt, "all", c.right) for c in pairs]
    for c in pairs:
        one = scored[c.ranking]
        longest = max(one.lengths[c.better], one.lengths[c.worse])
        if abs(c.longer) <= MATCHED * longest:
            entries.append(Observation(c.prompt, "matched", c.right))
    prompts = len({one.prompt for one in scored})
    found = means(entries, prompts, SeededDraws(seed=seed)) if entries else {}
    return LengthReport(
        found.get("all", Estimate()),
        found.get("matched", Estimate()),
        _within(scored, lambda values: values),
        _within(scored, average_ranks),
    )


def with_scores(scored: Sequence[ScoredRanking], scores: Sequence[Tensor]) -> list[ScoredRanking]:
    """The same rankings with other scores, a [K] tensor each."""
    return [replace(one, scores=tuple(other.tolist())) for one, other in zip(scored, scores, strict=True)]


def length_metrics(now: LengthReport, raw: LengthReport | None) -> dict[str, float]:
    """The scalars of metrics.jsonl, those before the debiasing with `_raw` behind."""
    if raw is None:
        return now.metrics()
    return now.metrics() | raw.metrics("_raw") | {"eval/accuracy_raw": known(raw.accuracy.value)}


def document(debias: str, now: LengthReport, raw: LengthReport | None) -> dict[str, Any]:
    """What evaluation.json says of length; raw: before the debiasing, where there was one."""
    return {
        "debias": debias,
        "within": MATCHED,
        "scores": plain(now),
        "raw": None if raw is None else plain(raw),
    }


def shown(now: LengthReport, raw: LengthReport | None) -> str:
    """A line for the console."""

    def of(value: Callable[[LengthReport], float | None]) -> str:
        new = f"{known(value(now)):.3f}"
        return new if raw is None else f"{new} (before {known(value(raw)):.3f})"

    if isnan(now.pearson):
        return "length: nothing to correlate with scores: within rankings, lengths or scores are all the same"
    return (
        f"length: correlation with scores within rankings {of(lambda r: r.pearson)} by Pearson, "
        f"{of(lambda r: r.spearman)} by Spearman; accuracy {of(lambda r: r.accuracy.value)}, on the "
        f"{now.matched.count} comparisons of like length {of(lambda r: r.matched.value)}"
    )


def average_ranks(values: Tensor) -> Tensor:
    """Ranks [K] from 1 for the lowest; equal values have the mean of theirs."""
    below = (values[:, None] > values[None]).double().sum(1)
    equal = (values[:, None] == values[None]).double().sum(1)
    return below + (equal + 1) / 2


def _within(scored: Sequence[ScoredRanking], of: Callable[[Tensor], Tensor]) -> float:
    """The correlation of scores and lengths, both less their ranking's mean."""
    columns: list[list[Tensor]] = [[], []]
    for one in scored:
        for column, values in zip(columns, (one.scores, one.lengths), strict=True):
            found = of(torch.tensor(values, dtype=torch.float64))
            column.append(found - found.mean())
    if not scored:
        return float("nan")
    scores, lengths = torch.cat(columns[0]), torch.cat(columns[1])
    varied = bool(scores.abs().max() > 0) and bool(lengths.abs().max() > 0)
    return float(correlation(scores, lengths)) if varied else float("nan")
