"""How scores depend on the length of a response, and what ODIN adds to the reward model's loss.

Scores of different prompts have no common zero, so what length does is what it does among the responses to
one prompt: each prompt has a level of its own beside the curve.
"""

from __future__ import annotations

import torch
from torch import Tensor

KNOTS = 50  # places where the curve is fitted; between them it is straight
FRACTION = 2 / 3  # of the responses that a place of the curve is fitted to (Cleveland's default)
ROBUST = 3  # times that responses far from the curve lose weight (the same)
_ROUNDS = 20  # of curve and levels in turn, at most


def linear_bias(scores: Tensor, lengths: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """The line [2], [2]: the shortest and the longest length, and what length adds to the score there.

    Least squares with a level for each prompt: the slope is sum (l - l_p)(s - s_p) / sum (l - l_p)^2 with
    the prompts' means l_p and s_p. scores, lengths, prompts (a number each): [N]. Flat where no prompt has
    responses of different lengths.
    """
    scores, lengths = scores.double(), lengths.double()
    ends = torch.stack([lengths.min(), lengths.max()])
    if ends[0] == ends[1]:
        ends = torch.stack([ends[0], ends[0] + 1])
    return ends, _slope(scores, lengths, prompts) * (ends - lengths.mean())


def lowess_bias(scores: Tensor, lengths: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """The same by a local regression: a curve [n], [n] that is straight between n places.

    LOWESS (Cleveland 1979) of the scores less their prompts' levels, which are fitted in turn with it,
    beginning with those beside `linear_bias`. Beyond the shortest and the longest response it stays level.
    """
    scores, lengths = scores.double(), lengths.double()
    slope, places = _slope(scores, lengths, prompts), _places(lengths)
    curve = slope * (places - lengths.mean())
    for _ in range(_ROUNDS):
        before = curve
        level = _means(scores - piecewise(lengths, places, curve), prompts)
        curve = lowess(lengths, scores - level, places)
        if bool((curve - before).abs().max() <= 1e-6 * scores.std()):
            break
    flat = torch.cat([places[:1] - 1, places, places[-1:] + 1])
    return flat, torch.cat([curve[:1], curve, curve[-1:]]) - piecewise(lengths, places, curve).mean()


def lowess(x: Tensor, y: Tensor, places: Tensor, fraction: float = FRACTION, robust: int = ROBUST) -> Tensor:
    """Locally weighted straight lines through (x, y) [N], read at the places [n].

    Each place's line counts the nearest `fraction` of the points, by tricube weights. `robust` times the
    points are weighted anew by how far they lie from the curve (bisquare, of six median distances).
    Source: Cleveland, "Robust locally weighted regression and smoothing scatterplots", 1979.
    """
    nearest, weights = max(2, int(fraction * len(x) + 1e-10)), torch.ones_like(x)
    curve = torch.stack([_local(x, y, weights, place, nearest) for place in places])
    for _ in range(robust):
        distances = (y - piecewise(x, places, curve)).abs()
        median = torch.quantile(distances, 0.5)
        if not median > 0:
            break
        weights = (1 - (distances / (6 * median)).square()).clamp(min=0).square()
        curve = torch.stack([_local(x, y, weights, place, nearest) for place in places])
    return curve


def _local(x: Tensor, y: Tensor, robust: Tensor, place: Tensor, nearest: int) -> Tensor:
    """A weighted line's value at one place; the weighted mean where the points have one x only."""
    distances = (x - place).abs()
    reach = distances.kthvalue(min(nearest, len(x))).values
    if not reach > 0:  # so many points of this very length
        weights = robust * (distances == 0)
    else:
        weights = robust * (1 - (distances / reach).clamp(max=1) ** 3) ** 3
    total = weights.sum()
    if not total > 0:
        return y.mean()
    mean_x, mean_y = (weights * x).sum() / total, (weights * y).sum() / total
    spread = (weights * (x - mean_x).square()).sum()
    if not spread > 1e-12 * total * (x.max() - x.min()).square():
        return mean_y
    return mean_y + (place - mean_x) * (weights * (x - mean_x) * y).sum() / spread


def piecewise(lengths: Tensor, places: Tensor, curve: Tensor) -> Tensor:
    """A curve [n] that is straight between its places [n], at lengths of any shape; it goes on as it ends."""
    if len(places) == 1:
        return curve.expand(lengths.shape)
    right = torch.searchsorted(places, lengths.to(places)).clamp(1, len(places) - 1)
    left = right - 1
    share = (lengths.to(places) - places[left]) / (places[right] - places[left])
    return curve[left] + share * (curve[right] - curve[left])


def _places(lengths: Tensor) -> Tensor:
    """The different lengths, or quantiles of them where there are more than KNOTS."""
    different = lengths.unique()
    if len(different) <= KNOTS:
        return different
    return torch.quantile(different, torch.linspace(0, 1, KNOTS, dtype=different.dtype)).unique()


def _slope(scores: Tensor, lengths: Tensor, prompts: Tensor) -> Tensor:
    s, x = scores - _means(scores, prompts), lengths - _means(lengths, prompts)
    spread = x.square().sum()
    return (s * x).sum() / spread if bool(spread > 0) else spread


def _means(values: Tensor, prompts: Tensor) -> Tensor:
    """Of each value [N], the mean of its prompt's."""
    count = int(prompts.max()) + 1
    sums = torch.zeros(count, dtype=values.dtype).index_add_(0, prompts, values)
    return (sums / torch.bincount(prompts, minlength=count).clamp(min=1))[prompts]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of two columns [N], a scalar with a gradient; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = a.norm() * b.norm()
    return (a * b).sum() / size if bool(size > 0) else (a * b).sum()


def disentangled(quality: Tensor, length: Tensor, lengths: Tensor, coef: float) -> Tensor:
    """Give coef * (|corr(quality, lengths)| - corr(length, lengths)), a scalar, over a whole batch.

    quality, length: what the two heads say of each response [N]; lengths: its tokens [N]. Source: ODIN
    (2402.07319), the length loss.
    """
    tokens = lengths.to(quality)
    return coef * (correlation(quality, tokens).abs() - correlation(length, tokens))


def cosine_size(quality: Tensor, length: Tensor) -> Tensor:
    """Give |cosine| of the two heads' weights [D], a scalar; 0 where one of them is 0.

    ODIN's orthogonality loss is |w_q . w_l| under weight normalisation, without which heads only shrink:
    of unit vectors that is the cosine.
    """
    size = quality.norm() * length.norm()
    return (quality @ length).abs() / size if bool(size > 0) else (quality @ length).abs()
