"""GAE against rlax's golden arrays, its definition as a sum, and Monte Carlo."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.objectives.gae import gae

quietly = settings(deadline=None, derandomize=True)  # no failures by load or by luck

# Rows of rlax's multistep_test.py (DeepMind). The first bootstraps from a value of -1. The second has
# discount 0 after its fourth step, an end: the steps before it and the one after are two responses.
REWARDS = [0.0, 0.0, 1.0, 0.0, -0.5]
VALUES = [1.0, 4.0, -3.0, -2.0, -1.0]
BOOTSTRAP = -1.0
GOLDEN = {
    1.0: ([-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3.0, 2.0, 1.0, 0.0]),
    0.7: ([-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1.0, 0.0]),
    0.4: ([0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1.0, 0.0]),
}
steps = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=12)
fractions = st.floats(0, 1)


def row(numbers: list[float]) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def full(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


@pytest.mark.parametrize("lam", GOLDEN)
def test_rlax_with_the_bootstrap_in_the_last_reward(lam: float) -> None:
    rewards = row([*REWARDS[:-1], REWARDS[-1] + 0.99 * BOOTSTRAP])
    advantages, returns = gae(rewards, row(VALUES), full(rewards), 0.99, lam)
    expected = row(GOLDEN[lam][0])
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-3)  # rlax's own tolerance
    torch.testing.assert_close(returns, expected + row(VALUES), rtol=0, atol=1e-3)


@pytest.mark.parametrize("lam", GOLDEN)
def test_rlax_with_the_bootstrap_as_one_more_token_that_its_value_foresaw(lam: float) -> None:
    rewards, values = row([*REWARDS, BOOTSTRAP]), row([*VALUES, BOOTSTRAP])
    advantages, _ = gae(rewards, values, full(rewards), 0.99, lam)
    torch.testing.assert_close(advantages[:, :5], row(GOLDEN[lam][0]), rtol=0, atol=1e-3)
    assert advantages[0, 5] == 0


@pytest.mark.parametrize("lam", GOLDEN)
def test_rlax_where_a_response_ends(lam: float) -> None:
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0 + 0.9 * BOOTSTRAP, 0.0, 0.0, 0.0]])
    values = torch.tensor([[-3.0, -2.0, -1.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    advantages, _ = gae(rewards, values, mask, 0.9, lam)
    expected = torch.tensor([GOLDEN[lam][1], [-4.9, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-3)


@quietly
@given(steps, fractions, fractions)
def test_the_definition_as_a_sum_of_discounted_errors(
    steps: list[tuple[float, float]], gamma: float, lam: float
) -> None:
    rewards, values = [r for r, _ in steps], [v for _, v in steps] + [0.0]
    errors = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    expected = [sum((gamma * lam) ** k * e for k, e in enumerate(errors[t:])) for t in range(len(errors))]
    advantages, returns = gae(row(rewards), row(values[:-1]), full(row(rewards)), gamma, lam)
    assert advantages[0].tolist() == pytest.approx(expected, abs=1e-9)
    assert (returns - advantages)[0].tolist() == pytest.approx(values[:-1], abs=1e-9)


@quietly
@given(steps)
def test_lambda_1_is_the_monte_carlo_return_minus_the_value(steps: list[tuple[float, float]]) -> None:
    rewards, values = [r for r, _ in steps], [v for _, v in steps]
    advantages, returns = gae(row(rewards), row(values), full(row(rewards)), 1.0, 1.0)
    to_go = [sum(rewards[t:]) for t in range(len(rewards))]
    assert returns[0].tolist() == pytest.approx(to_go, abs=1e-9)
    assert advantages[0].tolist() == pytest.approx(
        [g - v for g, v in zip(to_go, values, strict=True)], abs=1e-9
    )


def test_lambda_0_is_the_one_step_error() -> None:
    advantages, _ = gae(row([1.0, 2.0, 3.0]), row([10.0, 20.0, 30.0]), full(row([1.0] * 3)), 0.5, 0.0)
    assert advantages[0].tolist() == [1 + 10 - 10, 2 + 15 - 20, 3 - 30]


@pytest.mark.parametrize("rubbish", [5.0, float("nan"), float("inf"), float("-inf")])
def test_padding_never_leaks(rubbish: float) -> None:
    rewards = torch.tensor([[1.0, 2.0, rubbish, rubbish], [1.0, 2.0, 3.0, rubbish]])
    values = torch.tensor([[0.5, 0.25, rubbish, rubbish], [1.0, 1.0, 1.0, rubbish]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    short = gae(rewards[:1, :2], values[:1, :2], mask[:1, :2], 0.9, 0.8)
    assert torch.equal(advantages[:1, :2], short[0])
    assert torch.equal(returns[:1, :2], short[1])
    assert advantages[~mask].tolist() == returns[~mask].tolist() == [0, 0, 0]


def test_padding_may_stand_on_the_left_too() -> None:
    rewards, values = row([9.0, 9.0, 1.0, 2.0]), row([9.0, 9.0, 0.5, 0.25])
    mask = torch.tensor([[False, False, True, True]])
    for padded, real in zip(
        gae(rewards, values, mask, 0.9, 0.8),
        gae(rewards[:, 2:], values[:, 2:], mask[:, 2:], 0.9, 0.8),
        strict=True,
    ):
        assert padded[0].tolist() == [0.0, 0.0, *real[0].tolist()]


def test_advantages_and_returns_are_constants_in_at_least_float32() -> None:
    values = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    results = gae(torch.ones(2, 3), values, full(values), 1.0, 0.95)
    assert [(x.requires_grad, x.dtype) for x in results] == [(False, torch.float32)] * 2


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="values has shape"):
        gae(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3, dtype=torch.bool), 1.0, 1.0)
