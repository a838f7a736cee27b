"""How often the reward model ranks as people did, with the interval that the number of prompts allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align.data.batches import generator
from align.objectives.bradley_terry import Ranks, comparisons, pair_accuracy

_RESAMPLES = 2000


@dataclass(frozen=True)
class PairAccuracy:
    """Share of held-out comparisons that the scores order as people did; equal scores count one half."""

    accuracy: float
    low: float
    high: float
    comparisons: int

    def metrics(self) -> dict[str, float]:
        return {
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": self.low,
            "eval/accuracy_high": self.high,
            "eval/comparisons": self.comparisons,
        }


def evaluate_pairs(scores: Sequence[Tensor], ranks: Sequence[Ranks], seed: int) -> PairAccuracy:
    """Pair accuracy with a 95% percentile interval from a bootstrap over prompts.

    scores: a [K] tensor a ranking. Comparisons of one prompt hang together, so prompts are drawn, not
    pairs. Accuracy is nan where there is no comparison.
    """
    counted = [pair_accuracy(s, r) for s, r in zip(scores, ranks, strict=True)]
    correct = torch.tensor([c for c, _ in counted], dtype=torch.float64)
    total = torch.tensor([t for _, t in counted], dtype=torch.float64)
    comparisons = int(total.sum())
    if not comparisons:
        return PairAccuracy(float("nan"), float("nan"), float("nan"), 0)
    drawn = torch.randint(len(counted), (_RESAMPLES, len(counted)), generator=generator(seed, "bootstrap"))
    totals = total[drawn].sum(1)
    shares = (correct[drawn].sum(1) / totals)[totals > 0]
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return PairAccuracy(float(correct.sum()) / comparisons, low, high, comparisons)


def misjudged(scores: Sequence[Tensor], ranks: Sequence[Ranks]) -> list[tuple[int, int, int, float]]:
    """Comparisons that the scores order against people: (ranking, preferred, other, margin), worst first.

    margin is by how much the response that people preferred scores lower.
    """
    wrong = [
        (row, better, worse, float(values[worse] - values[better]))
        for row, (values, ranking) in enumerate(zip(scores, ranks, strict=True))
        for better, worse in comparisons(ranking)
        if values[worse] > values[better]
    ]
    return sorted(wrong, key=lambda found: -found[3])
