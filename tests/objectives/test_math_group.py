"""Advantages among the responses to one prompt, by hand and by what must hold of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.objectives.group import leave_one_out, standardised

groups = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.lists(st.floats(-50, 50, width=32), min_size=k, max_size=k), min_size=1, max_size=5)
)
quick = settings(deadline=None, max_examples=60)


def test_leave_one_out_by_hand() -> None:
    """1 - (4 + 7) / 2, 4 - (1 + 7) / 2, 7 - (1 + 4) / 2; and of two responses the difference."""
    assert leave_one_out(torch.tensor([[1.0, 4.0, 7.0]])).tolist() == [[-4.5, 0.0, 4.5]]
    assert leave_one_out(torch.tensor([[2.0, 5.0], [1.0, 1.0]])).tolist() == [[-3.0, 3.0], [0.0, 0.0]]


def test_standardised_by_hand() -> None:
    """Mean 4 and standard deviation 3 (with K - 1)."""
    found = standardised(torch.tensor([[1.0, 4.0, 7.0], [2.0, 2.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), rtol=1e-5, atol=1e-6)


def test_three_of_eight_right() -> None:
    """Figures that others published for eight responses of which three are right."""
    rewards = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    for function, right, wrong in ((leave_one_out, 0.7143, -0.4286), (standardised, 1.2076, -0.7246)):
        expected = torch.tensor([[right] * 3 + [wrong] * 5])
        torch.testing.assert_close(function(rewards), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("function", [leave_one_out, standardised])
@pytest.mark.parametrize("reward", [0.35, 0.1, -2.7, 1e-3, 333.3])
@pytest.mark.parametrize("count", [3, 7, 8, 64])
def test_equal_rewards_have_no_advantage_whatever_they_are(function, reward: float, count: int) -> None:  # type: ignore[no-untyped-def]
    """In float32 their mean is off by a rounding, and whitening would make a direction of that."""
    assert not function(torch.full((2, count), reward)).any()


@quick
@given(groups)
def test_leave_one_out_is_the_mean_of_the_others(rows: list[list[float]]) -> None:
    found = leave_one_out(torch.tensor(rows, dtype=torch.float64))
    for row, advantages in zip(rows, found.tolist(), strict=True):
        for i, advantage in enumerate(advantages):
            others = row[:i] + row[i + 1 :]
            assert advantage == pytest.approx(row[i] - sum(others) / len(others), abs=1e-9)
        assert sum(advantages) == pytest.approx(0.0, abs=1e-9)


@quick
@given(groups, st.floats(-20, 20), st.floats(0.5, 20))
def test_standardised_knows_neither_offset_nor_scale(
    rows: list[list[float]], by: float, times: float
) -> None:
    rewards = torch.tensor(rows, dtype=torch.float64)
    spread = rewards.std(1) > 0.1
    found, other = standardised(rewards), standardised(rewards * times + by)
    torch.testing.assert_close(found[spread], other[spread], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.zeros_like(found[:, 0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("function", [leave_one_out, standardised])
def test_one_response_has_nobody_to_be_compared_with(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="at least two"):
        function(torch.zeros(3, 1))


@pytest.mark.parametrize("function", [leave_one_out, standardised])
def test_half_precision_is_computed_in_float32(function) -> None:  # type: ignore[no-untyped-def]
    rewards = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.bfloat16)
    assert function(rewards).dtype == torch.float32
