"""Scalar heads on the base's last hidden state: one for the reward, one for the value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from align.objectives.length_bias import piecewise

LENGTH_BIAS = ("length_places", "length_curve")  # tensors of a head's file
# Ridge penalties that are tried, as shares of the largest squared singular value.
_PENALTIES = [10.0**-k for k in range(11)]


class ScalarHead(nn.Module):
    """A linear map [..., D] -> [...], computed in float32.

    The weight starts with standard deviation `std`, or 1/sqrt(D + 1) (Stiennon et al., arXiv 2009.01325),
    drawn from `generator`. The reward has no bias, so that it is the head of a plain sequence-classification
    checkpoint; the value's starts at zero.
    """

    def __init__(
        self, width: int, generator: torch.Generator, bias: bool = False, std: float | None = None
    ) -> None:
        super().__init__()
        std = 1 / math.sqrt(width + 1) if std is None else std
        weight = torch.empty(width).normal_(std=std, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(())) if bias else None
        self.length_places: Tensor | None
        self.length_curve: Tensor | None
        self.register_buffer("length_places", None)
        self.register_buffer("length_curve", None)

    def forward(self, hidden: Tensor) -> Tensor:
        """Scalars [...] in float32 from hidden states [..., D]."""
        scalars = hidden.float() @ self.weight
        return scalars if self.bias is None else scalars + self.bias

    def scores(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Scores [N] of responses of so many tokens [N], less what length adds where that is known."""
        scores: Tensor = self(hidden)
        if self.length_places is None:
            return scores
        return scores - self.length_bias(lengths.to(scores.device)).to(scores)

    def length_bias(self, lengths: Tensor) -> Tensor:
        """What length alone adds to the scores of responses of so many tokens, of any shape; float64."""
        if self.length_places is None or self.length_curve is None:
            return torch.zeros(lengths.shape, dtype=torch.float64, device=lengths.device)
        return piecewise(lengths, self.length_places, self.length_curve)

    def debias(self, places: Tensor, curve: Tensor) -> None:
        """From now on take a curve [n] of length off scores, straight between the places [n] in tokens."""
        self.length_places = places.double().to(self.weight.device)
        self.length_curve = curve.double().to(self.weight.device)


def constant_direction(hidden: Tensor, beside: Tensor | None = None) -> Tensor:
    """The v [D] whose product with the hidden states [N, D] is nearest to 1 everywhere, 1 in the mean.

    beside: [M, D], hidden states on which it is to be near 1 too, without counting in the mean. A direction
    that is constant on one kind of texts need not be so on another. Ridge least squares of 1 on the hidden
    states, with the penalty that predicts left-out rows best (in closed form: Allen's PRESS, 1974), then
    scaled. A final norm with a learned gain, or a feature that is always on, lets a transformer's hidden
    states come close. Zero where their mean is zero: then no weight could have any other mean score than 0.
    """
    hidden = hidden.double()
    fitted = hidden if beside is None else torch.cat([hidden, beside.double()])
    left, sizes, right = torch.linalg.svd(fitted, full_matrices=False)
    if not sizes.max() > 0:
        return torch.zeros_like(hidden[0])
    ones = left.sum(0)  # left.T @ 1
    best, direction = float("inf"), torch.zeros_like(hidden[0])
    for penalty in _PENALTIES:
        damped = sizes.square() + penalty * sizes.max().square()
        shrunk = sizes.square() / damped
        leverage = left.square() @ shrunk
        left_out = (1 - left @ (shrunk * ones)) / (1 - leverage).clamp(min=1e-12)
        error = float(left_out.square().mean())
        if error < best:
            best, direction = error, right.T @ (sizes / damped * ones)
    mean = hidden.mean(0) @ direction
    return direction / mean if float(mean) else torch.zeros_like(direction)


def difference_rms(changes: Sequence[Tensor]) -> float:
    """Root mean square of how much differences of scores changed, over all pairs within each ranking.

    changes: of each ranking, how much its scores [K] changed.
    """
    pairs = torch.cat([torch.combinations(change.double()) for change in changes])
    return float(pairs.diff(dim=1).square().mean().sqrt())


@torch.no_grad()
def centre(head: ScalarHead, hidden: Tensor, beside: Tensor | None = None) -> float:
    """Move the weight along the constant direction so that these hidden states [N, D] score 0 in the mean.

    Adds the same to every score as nearly as a linear map can, so that differences stay: what a bias
    would do exactly. beside: [M, D], hidden states whose scores' differences are to stay too. Returns what
    was added to the mean score.
    """
    if head.bias is not None:
        raise ValueError("centre moves the weight of a head without a bias")
    hidden = hidden.double().cpu()
    weight = head.weight.double().cpu()
    before = hidden.mean(0) @ weight
    direction = constant_direction(hidden, None if beside is None else beside.double().cpu())
    head.weight.copy_(weight - before * direction)
    return float(hidden.mean(0) @ head.weight.double().cpu() - before)
