"""A warning where the guard falls and the training score does not, and nowhere else."""

from __future__ import annotations

import random

import pytest

from align.stats.overoptimisation import overoptimised

UP = [i / 10 for i in range(40)]


def wobble(size: float, seed: int, count: int) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.gauss(0, size) for _ in range(count)]


def hill(top: int, count: int) -> list[float]:
    """Rises to 1 at `top`, then falls as fast."""
    return [1 - abs(i - top) / top for i in range(count)]


def test_the_guard_turns_down_while_the_reward_goes_up() -> None:
    guard = hill(20, 40)
    assert overoptimised(UP, guard, window=5)
    assert not overoptimised(UP[:22], guard[:22], window=5)  # it has only just turned


def test_a_reward_at_its_ceiling_hides_nothing() -> None:
    """The reward model has no more to give, and the policy drifts on."""
    ceiling = [min(i, 20) / 20 for i in range(60)]
    assert overoptimised(ceiling, hill(30, 60), window=5)
    assert overoptimised([0.5] * 40, hill(20, 40), window=5)


@pytest.mark.parametrize(
    ("training", "guard"),
    [
        (UP, UP),  # both rise
        (UP, [0.5] * 40),  # the guard does not care
        (UP[::-1], UP[::-1]),  # both fall: the policy broke, but not by exploiting the reward
        (UP[:9], hill(4, 9)),  # fewer than two windows
    ],
)
def test_what_is_no_overoptimisation(training: list[float], guard: list[float]) -> None:
    assert not overoptimised(training, guard, window=5)


def test_a_slow_decline_is_seen_from_its_peak() -> None:
    """No two neighbouring windows differ by more than the noise."""
    count = 300
    training = [i * 0.01 + n for i, n in enumerate(wobble(0.1, 1, count))]
    guard = [n - max(i - 100, 0) * 0.002 for i, n in enumerate(wobble(0.1, 2, count))]
    assert overoptimised(training, guard)
    assert not overoptimised(training[:100], guard[:100])


def test_noise_alone_seldom_warns() -> None:
    """A guard that stays where it is, looked at after each of 200 iterations; the reward rises or stays."""
    runs = 40
    false = 0
    for seed in range(runs):
        training = [i * 0.05 * (seed % 2) + n for i, n in enumerate(wobble(0.1, seed, 200))]
        guard = wobble(0.1, 1000 + seed, 200)
        false += any(overoptimised(training[:n], guard[:n]) for n in range(20, 201, 4))
    assert false / runs <= 0.05, false


def test_curves_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 training scores and 2"):
        overoptimised([1, 2, 3], [1, 2])


@pytest.mark.parametrize(
    ("training", "guard", "warns"),
    [
        # Windows of two. [0, 4] and [10, 14] have variance 8: the standard error of a change is 2.
        ([0, 0, 1, 1], [10, 10, 1, 1], True),  # four values are two windows
        ([0, 0, 1, 1], [10, 10, 0, 4], False),  # a fall of 8 is four standard errors
        ([0, 0, 1, 1], [10, 14, 4, 4], False),
        ([0, 0, 1, 1], [14, 14, 0, 4], False),  # of 12, six
        ([0, 0, 1, 1], [15, 15, 0, 4], True),  # of 13, more than six
        ([0, 0, -1, 3], [10, 10, 1, 1], True),  # a rise of 1 is half of one
        ([10, 10, -1, 3], [10, 10, 1, 1], True),  # a fall of the reward by 9 is four and a half
        ([14, 14, -1, 3], [10, 10, 1, 1], False),  # of 13, more than six: both fall
        ([0, 0, 11, 15], [10, 10, 1, 1], True),  # of 13, more than six
    ],
)
def test_six_standard_errors_by_hand(training: list[float], guard: list[float], warns: bool) -> None:
    assert overoptimised(training, guard, window=2) is warns
