"""How likely each response is the best of its record by its length and its common words alone.

What a rare phrase seems to win may be won by what stands beside it: longer responses hold more phrases, and
win more often. A logistic model over pairs of responses learns that, from other conversations than those
that it is asked about, and only from words too common to be planted.
"""

from __future__ import annotations

import numpy as np

from align.check.screens.corpus import Laid, Numbers, Whole

_WORDS = 300  # most common words
_PAIRS = 20_000  # that are learnt from
_FOLDS = 5
_RIDGE = 5.0
_ROUNDS = 12  # of Newton's method
_AT_ONCE = 20_000  # responses


def chances(laid: Laid, most: int) -> Numbers:
    """[responses] that add up to 1 in each record; common is a word in more than `most` responses."""
    draw = np.random.default_rng(0)
    better, worse = _pairs(laid, draw)
    if len(better) < 2 * _FOLDS:
        return 1 / laid.sizes[laid.record].astype(float)
    occurs = np.bincount(laid.word)
    common = np.argsort(-occurs, kind="stable")[:_WORDS]
    column = np.full(len(occurs), -1)
    common = common[occurs[common] > most]
    column[common] = np.arange(len(common))
    fold = draw.integers(_FOLDS, size=laid.units)[laid.unit]
    difference = _features(laid, better, column) - _features(laid, worse, column)
    of_pair = fold[laid.record[better]]
    weights = np.array([_fitted(difference[of_pair != i], _RIDGE) for i in range(_FOLDS)])
    unseen = np.einsum("pf,pf->p", difference, weights[of_pair])
    scale = max(0.0, float(_fitted(unseen[:, None], 1.0)[0]))
    score = np.zeros(len(laid.lengths))
    for start in range(0, len(score), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(score)))
        score[rows] = np.einsum("rf,rf->r", _features(laid, rows, column), weights[fold[laid.record[rows]]])
    strength = np.exp(np.clip(scale * (score - _best(score, laid)), -30, 0))
    return strength / np.add.reduceat(strength, laid.first[:-1])[laid.record]


def _best(score: Numbers, laid: Laid) -> Numbers:
    best: Numbers = np.maximum.reduceat(score, laid.first[:-1])[laid.record]
    return best


def _pairs(laid: Laid, draw: np.random.Generator) -> tuple[Whole, Whole]:
    """A better and a worse response of each record that has some, at most _PAIRS."""
    first, last = laid.first[:-1], laid.first[1:]
    one = first + draw.integers(0, last - first)
    other = first + (one - first + draw.integers(1, np.maximum(2, last - first))) % (last - first)
    a, b = laid.better[one], laid.better[other]
    decided = np.flatnonzero((a != b) & (a > 0) & (b > 0))
    decided = np.sort(draw.permutation(decided)[:_PAIRS])
    one, other, ahead = one[decided], other[decided], a[decided] < b[decided]
    return np.where(ahead, one, other), np.where(ahead, other, one)


def _features(laid: Laid, rows: Whole, column: Whole) -> Numbers:
    """[rows, 1 + words]: the logarithm of the length, and 1 for each common word that it has."""
    wide = int(column.max(initial=-1)) + 1
    found = np.zeros((len(rows), wide + 1))
    found[:, 0] = np.log1p(laid.lengths[rows])
    for i, row in enumerate(rows.tolist()):
        columns = column[laid.word[laid.starts[row] : laid.starts[row + 1]]]
        found[i, 1 + columns[columns >= 0]] = 1
    return found


def _fitted(difference: Numbers, ridge: float) -> Numbers:
    """Weights of a logistic model by which each difference [pairs, features] is a win, by Newton's method."""
    weights = np.zeros(difference.shape[1])
    for _ in range(_ROUNDS):
        right = 1 / (1 + np.exp(-np.clip(difference @ weights, -30, 30)))
        slope = difference.T @ (1 - right) - ridge * weights
        curve = (difference * (right * (1 - right))[:, None]).T @ difference + ridge * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-6:
            break
    return weights
