"""Intervals against those of the binomial and normal distributions."""

from __future__ import annotations

import pytest

from align.evaluation.draws import SeededDraws
from align.stats.bootstrap import Draws, Observation, means

both = pytest.mark.parametrize("draws", [SeededDraws(seed=0), Draws(2000)], ids=["torch", "numpy"])


@both
def test_a_mean_is_over_entries_and_its_group_only(draws: Draws) -> None:
    found = means(
        [
            Observation(0, "a", 1.0),
            Observation(0, "a", 0.0),
            Observation(1, "a", 1.0),
            Observation(1, "b", 0.25),
        ],
        3,
        draws,
    )
    a, b = found["a"], found["b"]
    assert a.value == pytest.approx(2 / 3)
    assert (a.count, a.prompts, b.value, b.count, b.prompts) == (3, 2, 0.25, 1, 1)


@both
def test_the_interval_is_the_binomial_one_and_copies_within_a_prompt_do_not_narrow_it(draws: Draws) -> None:
    # 100 prompts, 80 right: 0.8 ± 1.96 * sqrt(0.8 * 0.2 / 100) = 0.8 ± 0.0784, whether a prompt has one
    # comparison or five that agree.
    once = [Observation(i, "x", float(i < 80)) for i in range(100)]
    for entries in (once, once * 5):
        share = means(entries, 100, draws)["x"]
        assert share.low == pytest.approx(0.8 - 0.0784, abs=0.012)
        assert share.high == pytest.approx(0.8 + 0.0784, abs=0.012)


def test_drawing_in_pieces_has_the_same_interval() -> None:
    entries = [Observation(i, "x", float(i % 3 == 0)) for i in range(50)]
    whole = means(entries, 50, SeededDraws(seed=0))["x"]
    parts = means(entries, 50, SeededDraws(seed=0, chunk=50 * 7))["x"]
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.03)


@both
def test_where_all_are_right_the_interval_is_clopper_and_pearsons(draws: Draws) -> None:
    # 10 of 10: (0.025)^(1/10) = 0.6915, the lower end in every table of binomial intervals.
    share = means([Observation(i, "x", 1.0) for i in range(10)], 10, draws)["x"]
    assert (share.low, share.high) == (pytest.approx(0.6915, abs=1e-4), 1.0)
    share = means([Observation(i, "x", 0.0) for i in range(10)], 10, draws)["x"]
    assert (share.low, share.high) == (0.0, pytest.approx(0.3085, abs=1e-4))
    share = means([Observation(i, "x", -1.0) for i in range(10)], 10, draws, bounds=(-1.0, 1.0))["x"]
    assert (share.low, share.high) == (-1.0, pytest.approx(-1 + 2 * 0.3085, abs=2e-4))


@both
def test_one_prompt_has_no_interval_and_nothing_no_group(draws: Draws) -> None:
    share = means([Observation(3, "x", 1.0), Observation(3, "x", 0.0)], 5, draws)["x"]
    assert share.value == 0.5
    assert share.low is None and share.high is None
    assert means([], 0, draws) == {}


def test_the_same_seed_draws_the_same() -> None:
    entries = [Observation(i, "x", i % 7 / 7) for i in range(30)]
    assert means(entries, 30, SeededDraws(seed=1)) == means(entries, 30, SeededDraws(seed=1))
    assert means(entries, 30, SeededDraws(seed=1)) != means(entries, 30, SeededDraws(seed=2))
