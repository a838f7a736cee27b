"""Best-of-n against closed forms, all choices one by one, and the order statistics of a uniform."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from align.stats.best_of_n import best_of, kl_of_best, n_at_kl, order_weights


def test_the_kl_is_stiennons() -> None:
    assert kl_of_best(1) == 0
    assert kl_of_best(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_of_best(64) == pytest.approx(3.1745080)  # log 64 - 63/64, by hand


@pytest.mark.parametrize("n", [1.0, 1.3, 2.0, 7.5, 64.0, 5000.0])
def test_the_n_of_a_kl_gives_it_back(n: float) -> None:
    assert n_at_kl(kl_of_best(n)) == pytest.approx(n, rel=1e-6)


def test_a_kl_that_noise_made_negative_is_one_sample() -> None:
    assert n_at_kl(-0.2) == 1.0


def test_the_estimate_is_the_mean_over_all_choices() -> None:
    random = np.random.default_rng(1)
    scores, gold = random.normal(size=(3, 7)), random.normal(size=(3, 7))
    for n in range(1, 8):
        for row in range(3):
            choices = list(combinations(range(7), n))
            best = [max(choice, key=lambda i, row=row: scores[row, i]) for choice in choices]
            by_hand = np.mean([gold[row, i] for i in best])
            assert best_of(scores, gold, n)[row] == pytest.approx(by_hand)


def test_of_uniform_numbers_the_best_of_n_is_n_over_n_plus_one() -> None:
    drawn = np.random.default_rng(2).random((4000, 12))
    for n in (1, 3, 8, 12):
        found = best_of(drawn, drawn, n)
        assert found.mean() == pytest.approx(n / (n + 1), abs=4 * found.std() / math.sqrt(4000))


def test_equal_scores_are_chosen_alike() -> None:
    scores, gold = np.array([[1.0, 1.0, 0.0, 1.0]]), np.array([[3.0, 6.0, 100.0, 0.0]])
    # Of the 6 pairs, 3 are among the ones that tie, and 3 have the worst one beside a best one.
    assert best_of(scores, gold, 2)[0] == pytest.approx(3.0)
    assert best_of(scores, gold, 1)[0] == pytest.approx(gold.mean())


def test_between_whole_numbers_it_is_linear_in_the_kl() -> None:
    values = np.array([[0.0, 1.0, 5.0]])
    two, three = best_of(values, values, 2)[0], best_of(values, values, 3)[0]
    share = (kl_of_best(2.5) - kl_of_best(2)) / (kl_of_best(3) - kl_of_best(2))
    assert best_of(values, values, 2.5)[0] == pytest.approx(two + share * (three - two))


def test_weights_of_many_samples_stay_finite_and_are_shares() -> None:
    for n in (1, 2, 500, 1000):
        weights = order_weights(1000, n)
        assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert order_weights(1000, 500)[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("n", [0, 5])
def test_more_than_was_drawn_is_no_estimate(n: int) -> None:
    with pytest.raises(ValueError, match="cannot be estimated from 4"):
        order_weights(4, n)


def test_a_policy_beyond_every_n_is_no_overflow() -> None:
    assert n_at_kl(2000.0) == math.inf and n_at_kl(699.0) < math.inf
