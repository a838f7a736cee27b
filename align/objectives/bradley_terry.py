"""The reward model's loss over whole rankings of K responses.

P(i is better than j) = sigmoid(s_i - s_j)   (Bradley and Terry 1952). A ranking's loss is the mean of
-log P over its comparisons, so a ranking of nine responses weighs as much as one of two:
1 / C(K,2) a comparison where there are no ties (InstructGPT, 2203.02155, equation 1). A margin m asks
for more where the preference was clear: -log sigmoid(s_i - s_j - m) (Llama 2, 2307.09288, equation 2).

Ranks: 1 is best, equal numbers are ties, None is unranked and takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.objectives.masked import at_least_float32
from align.stats.rankings import Ranks, comparisons, ties

Ties = Literal["ignore", "half"]


def _pairs(ranks: Ranks, mode: Ties) -> tuple[list[tuple[int, int]], int]:
    """Give the pairs that teach, decided ones first, and how many are decided."""
    if mode not in ("ignore", "half"):
        raise ValueError(f"ties must be 'ignore' or 'half', not {mode!r}")
    decided = comparisons(ranks)
    return decided + (ties(ranks) if mode == "half" else []), len(decided)


def has_pair(ranks: Ranks, ties: Ties = "ignore") -> bool:
    """Tell whether a ranking teaches anything: what `batch_loss` counts."""
    return bool(_pairs(ranks, ties)[0])


def ranking_loss(
    scores: Tensor, ranks: Ranks, ties: Ties = "ignore", centering_coef: float = 0.0, margin: float = 0.0
) -> Tensor:
    """Give the mean over the ranking's pairs of -log sigmoid(s_better - s_worse - margin), a scalar.

    scores: [K], computed in at least float32. With ties="half" a tied pair is a pair too, its target
    half-half, without a margin: -(log sigmoid(s_i - s_j) + log sigmoid(s_j - s_i)) / 2.
    centering_coef adds coef * mean over the pairs of (s_i + s_j)^2, which keeps scores near zero
    (Eisenstein et al. 2023, 2312.09244; TRL's center_rewards_coefficient).
    Without a pair it is a zero that is attached to the graph, with gradient zero.

    Raises ValueError if scores is not [K] for K ranks.
    """
    _check(scores, ranks)
    scores = at_least_float32(scores)
    pairs, decided = _pairs(ranks, ties)
    if not pairs:
        return scores[:0].sum()
    first, second = scores[torch.tensor(pairs, device=scores.device)].unbind(1)
    difference = first - second
    log_p = logsigmoid(difference[:decided] - margin)
    tied = difference[decided:]
    half_half = (logsigmoid(tied) + logsigmoid(-tied)) / 2
    loss = -torch.cat([log_p, half_half]).mean()
    if centering_coef:
        loss = loss + centering_coef * (first + second).square().mean()
    return loss


def batch_loss(
    scores: Sequence[Tensor],
    ranks: Sequence[Ranks],
    ties: Ties = "ignore",
    centering_coef: float = 0.0,
    margins: Sequence[float] | None = None,
    count: int | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Give the mean of `ranking_loss` over the rankings that have a pair, a scalar.

    scores: a [K] tensor a ranking. margins: one a ranking, 0 without them.
    count: the divisor, for a part of a larger batch: how many rankings of the whole batch, over all
    microbatches and processes, `has_pair`; then the parts' losses add up to the whole's. Without it
    the rankings given here are counted.
    weights: what each ranking's loss is multiplied by, 1 without them. They don't change the divisor: where
    they are 1 in the mean over all rankings, so is the size of a step.

    Raises ValueError if there is no ranking, or not as many scores, margins or weights as ranks.
    """
    margins = [0.0] * len(ranks) if margins is None else margins
    weights = [1.0] * len(ranks) if weights is None else weights
    if not scores or not len(scores) == len(ranks) == len(margins) == len(weights):
        raise ValueError(
            f"{len(scores)} score tensors, {len(margins)} margins and {len(weights)} weights for "
            f"{len(ranks)} rankings"
        )
    if count is None:
        count = sum(has_pair(r, ties) for r in ranks)
    losses = [
        weight * ranking_loss(s, r, ties, centering_coef, m)
        for s, r, m, weight in zip(scores, ranks, margins, weights, strict=True)
    ]
    return torch.stack(losses).sum() / max(count, 1)


def pair_accuracy(scores: Tensor, ranks: Ranks) -> tuple[float, int]:
    """Give (correct, total) over the comparisons of one ranking; equal scores count one half.

    scores: [K]. A comparison with a nan score is wrong. Raises ValueError if scores is not [K].
    """
    _check(scores, ranks)
    values = at_least_float32(scores).tolist()
    pairs = comparisons(ranks)
    correct = sum(1.0 if values[i] > values[j] else 0.5 * (values[i] == values[j]) for i, j in pairs)
    return float(correct), len(pairs)


def _check(scores: Tensor, ranks: Ranks) -> None:
    if scores.shape != (len(ranks),):
        raise ValueError(f"scores has shape {tuple(scores.shape)}, but there are {len(ranks)} ranks")
