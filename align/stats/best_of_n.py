"""Best-of-n: what the best of n samples is worth, and how far it is from the policy that drew them.

KL(best-of-n || policy) = log n - (n - 1) / n (Stiennon et al. 2020, 2009.01325; for responses with equal
scores it is an upper bound, Beirami et al. 2401.01879). The expected value of the best of n is estimated from
N >= n samples without bias: it is the mean over all C(N, n) choices (Nakano et al. 2021, 2112.09332).
"""

from __future__ import annotations

import math

import numpy as np

from align.stats.bootstrap import Numbers

_FARTHEST = 700.0  # nats: exp of more than 709 is no float


def kl_of_best(n: float) -> float:
    """KL of best-of-n to the policy that draws, in nats a response; 0 for n = 1."""
    return math.log(n) - (n - 1) / n


def n_at_kl(kl: float) -> float:
    """The n, 1 or more and no whole number as a rule, whose KL is this; 1 below 0, inf beyond all floats."""
    if kl <= 0:
        return 1.0
    if kl > _FARTHEST:
        return math.inf
    low, high = 1.0, math.exp(kl + 1)  # log n - 1 < KL
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if kl_of_best(middle) < kl else (low, middle)
    return (low + high) / 2


def order_weights(count: int, n: int) -> Numbers:
    """[count] The share of all choices of n among `count` samples in which the i-th smallest is the largest.

    C(i - 1, n - 1) / C(count, n), computed from the last one down. Raises ValueError unless 1 <= n <= count.
    """
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} cannot be estimated from {count} samples")
    found = np.zeros(count)
    found[-1] = n / count
    for i in range(count - 1, n - 1, -1):
        found[i - 1] = found[i] * (i + 1 - n) / i
    return found


def best_of(scores: Numbers, values: Numbers, n: float) -> Numbers:
    """[P] The expected value of the response that scores best among n, for each prompt.

    scores [P, N]: what chooses. values [P, N]: what is measured, such as the scores themselves or a gold
    measure. Among equal scores each is chosen alike. Between two whole numbers it is linear in the KL.
    Raises ValueError unless 1 <= n <= N.
    """
    below, above = math.floor(n), math.ceil(n)
    low = _best_of(scores, values, below)
    if below == above:
        return low
    start, end = kl_of_best(below), kl_of_best(above)
    share = (kl_of_best(n) - start) / (end - start)
    return low + share * (_best_of(scores, values, above) - low)


def _best_of(scores: Numbers, values: Numbers, n: int) -> Numbers:
    weights = order_weights(scores.shape[1], n)
    found = np.empty(len(scores))
    for row, (score, value) in enumerate(zip(scores, values, strict=True)):
        _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        shared = np.add.reduceat(weights, ends - counts) / counts  # of each group of equal scores
        found[row] = shared[place] @ value
    return found
