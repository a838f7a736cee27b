"""Win rates by hand, and at equal length against scipy's own maximum."""

from __future__ import annotations

import numpy as np
import pytest

from align.stats.bootstrap import Draws
from align.stats.win_rates import length_controlled, win_rate, wins_of

WINS = np.array([1, 0, 1, 1, 0.5, 0, 1, 1, 0, 1, 0.5, 1.0])
LONGER = np.array([120, -30, 40, 10, 0, -80, 200, -15, 60, 35, 5, -40.0])


def test_ties_count_half() -> None:
    wins = wins_of(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0]))
    assert wins.tolist() == [1.0, 0.5, 0.0]
    found = win_rate(wins, np.array([1.0, 0.0, -1.0]), Draws())
    assert (found.rate.value, found.wins, found.ties, found.losses) == (0.5, 1, 1, 1)


def test_at_equal_length_it_is_scipys_logistic_regression() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    reach = np.tanh(LONGER / LONGER.std(ddof=1))

    def loss(x: np.ndarray) -> float:
        z = x[0] + x[1] * reach
        return float((np.logaddexp(0, z) - WINS * z).sum())

    a, b = optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-10}).x
    found, effect, why = length_controlled(WINS, LONGER, Draws())
    assert why is None
    assert found.value == pytest.approx(1 / (1 + np.exp(-a)), abs=1e-6)
    assert effect == pytest.approx(b, abs=1e-5)


def test_a_judge_that_loves_length_is_seen_through() -> None:
    random = np.random.default_rng(0)
    longer = random.normal(50, 100, 3000)  # the first policy writes more
    chance = 1 / (1 + np.exp(-2.5 * np.tanh(longer / longer.std(ddof=1))))
    wins = (random.random(3000) < chance).astype(float)
    found = win_rate(wins, longer, Draws())
    assert found.rate.value is not None and found.rate.value > 0.6
    controlled = found.length_controlled
    assert controlled.low is not None and controlled.high is not None
    assert controlled.low < 0.5 < controlled.high  # nothing but length
    assert controlled.value == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("wins", "longer", "why"),
    [
        (np.ones(5), np.arange(5.0), "too one-sided"),
        (np.array([1.0, 1.0, 0.0, 0.0]), np.array([9.0, 5.0, -5.0, -9.0]), "too one-sided"),
        (np.array([1.0, 0.0]), np.zeros(2), "equally long"),
        (np.array([1.0]), np.array([3.0]), "one prompt"),
    ],
)
def test_what_has_no_fit_is_said(wins: np.ndarray, longer: np.ndarray, why: str) -> None:
    found, effect, told = length_controlled(wins, longer, Draws())
    assert found.value is None and effect is None and told is not None and why in told


def test_one_prompt_has_no_interval() -> None:
    found = win_rate(np.array([1.0]), np.array([2.0]), Draws())
    assert (found.rate.value, found.rate.low, found.rate.high) == (1.0, None, None)


def test_what_is_no_number_neither_wins_nor_loses() -> None:
    wins = wins_of(np.array([np.nan, 2.0, 1.0]), np.array([0.0, np.nan, 0.0]))
    assert np.isnan(wins).tolist() == [True, True, False] and wins[2] == 1


def test_answers_that_always_differ_alike_are_not_called_equally_long() -> None:
    for by, says in ((0.0, "equally long"), (7.0, "differ by the same length")):
        _, _, why = length_controlled(WINS, np.full(12, by), Draws())
        assert why is not None and says in why
