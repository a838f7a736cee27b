"""Masked sums, moments and whitening against the standard library's `statistics`."""

import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from align.objectives.masked import (
    masked_mean,
    masked_sum,
    masked_var,
    mean_and_var,
    moments,
    scale_to_unit_variance,
    whiten,
    whiten_with,
)

quietly = settings(deadline=None, derandomize=True)  # no failures by load or by luck

X = torch.tensor([[1.0, 2.0, 6.0], [3.0, -100.0, -100.0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])
REAL = [1.0, 2.0, 6.0, 3.0]

numbers = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20)


def padded(numbers: list[float]) -> tuple[Tensor, Tensor]:
    """The numbers with rubbish between and behind them."""
    x = torch.tensor([[n, -777.0] for n in numbers]).reshape(1, -1)
    return x, torch.tensor([[True, False]] * len(numbers)).reshape(1, -1)


def test_hand_sums() -> None:
    assert masked_sum(X, MASK).item() == 12
    assert masked_mean(X, MASK).item() == 3
    assert masked_var(X, MASK).item() == 3.5  # (4 + 1 + 9 + 0) / 4
    assert masked_var(X, MASK, unbiased=True).item() == pytest.approx(14 / 3)
    assert masked_sum(X, MASK, dim=1).tolist() == [9, 3]
    assert masked_mean(X, MASK, dim=1).tolist() == [3, 3]
    assert [m.item() for m in moments(X, MASK)] == [4, 12, 50]


def test_whitening_shifts_the_mean_and_scaling_does_not() -> None:
    deviation = 3.5**0.5
    white = torch.tensor([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]) / deviation
    torch.testing.assert_close(whiten(X, MASK), white)
    scaled = white + torch.tensor([[3.0, 3.0, 3.0], [3.0, 0.0, 0.0]])
    torch.testing.assert_close(scale_to_unit_variance(X, MASK), scaled)


@quietly
@given(numbers)
def test_mean_and_variance_are_those_of_the_statistics_module(numbers: list[float]) -> None:
    x, mask = padded(numbers)
    x = x.double()
    assert masked_mean(x, mask).item() == pytest.approx(statistics.fmean(numbers), abs=1e-9)
    assert masked_var(x, mask).item() == pytest.approx(statistics.pvariance(numbers), abs=1e-9)
    assert masked_var(x, mask, unbiased=True).item() == pytest.approx(statistics.variance(numbers), abs=1e-9)
    mean, var = mean_and_var(*moments(x, mask))
    assert mean.item() == pytest.approx(statistics.fmean(numbers), abs=1e-9)
    assert var.item() == pytest.approx(statistics.pvariance(numbers), abs=1e-9)


@quietly
@given(numbers.filter(lambda xs: statistics.pvariance(xs) > 0.01))
def test_whitened_numbers_have_mean_0_and_variance_1(numbers: list[float]) -> None:
    x, mask = padded(numbers)
    white = whiten(x, mask)[mask].tolist()
    assert statistics.fmean(white) == pytest.approx(0, abs=1e-3)
    assert statistics.pvariance(white) == pytest.approx(1, abs=1e-3)
    scaled = scale_to_unit_variance(x, mask)[mask].tolist()
    assert statistics.fmean(scaled) == pytest.approx(statistics.fmean(numbers), abs=1e-3)
    assert statistics.pvariance(scaled) == pytest.approx(1, abs=1e-2)


def test_whitening_over_processes_is_whitening_the_whole_batch() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)) * 3 + 7
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2, 5, 4]).unsqueeze(1)
    parts = [(x[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    total = torch.stack([torch.stack(moments(*part)) for part in parts]).sum(0)
    mean, var = mean_and_var(*total)
    together = torch.cat([whiten_with(*part, mean, var) for part in parts])
    torch.testing.assert_close(together, whiten(x, mask), rtol=0, atol=1e-6)
    alone = torch.cat([whiten(*part) for part in parts])
    assert (alone - together).abs().max() > 0.1  # each process by itself is another thing


def test_a_mean_far_from_zero_does_not_drown_the_variance() -> None:
    numbers = [10_000.0, 10_000.25, 10_000.5, 10_000.25]  # exact in float32, their squares are not
    white = whiten(torch.tensor(numbers), torch.ones(4, dtype=torch.bool))
    deviation = statistics.pstdev(numbers)
    torch.testing.assert_close(white, torch.tensor([-0.25, 0.0, 0.25, 0.0]) / deviation)


def test_nothing_real_is_zero_and_a_constant_whitens_to_zero() -> None:
    nothing = torch.zeros_like(MASK)
    for function in (masked_sum, masked_mean, masked_var):
        assert function(X, nothing).item() == 0
    assert whiten(X, nothing).tolist() == torch.zeros(2, 3).tolist()
    assert whiten(torch.full((2, 3), 1000.1), MASK).tolist() == torch.zeros(2, 3).tolist()


@pytest.mark.parametrize("rubbish", [0.0, 1e30, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "function",
    [masked_sum, masked_mean, masked_var, whiten, scale_to_unit_variance],
    ids=lambda f: f.__name__,
)
def test_padding_changes_neither_result_nor_gradient(
    function: Callable[[Tensor, Tensor], Tensor], rubbish: float
) -> None:
    x = X.masked_fill(~MASK, rubbish).requires_grad_()
    clean = X.clone().requires_grad_()
    weights = torch.arange(6.0).reshape(2, 3)
    for inputs in (x, clean):
        result = function(inputs, MASK)
        (result * (weights if result.dim() else 1.0)).sum().backward()
    assert torch.equal(function(x, MASK), function(clean, MASK))
    assert x.grad is not None
    assert clean.grad is not None
    assert torch.equal(x.grad, clean.grad)
    assert x.grad[~MASK].tolist() == [0, 0]


def test_gradients_agree_with_finite_differences() -> None:
    x = X.double().requires_grad_()
    for function in (masked_mean, masked_var, whiten, scale_to_unit_variance):
        assert torch.autograd.gradcheck(lambda t, f=function: f(t, MASK), (x,))


def test_half_precision_is_summed_in_float32() -> None:
    x, mask = torch.ones(1000, dtype=torch.bfloat16), torch.ones(1000, dtype=torch.bool)
    assert masked_sum(x, mask).dtype == torch.float32
    assert masked_sum(x, mask).item() == 1000  # bfloat16 has no 1000 ones: it stops at 256
    assert whiten(x, mask).dtype == torch.float32


def test_wrong_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="boolean"):
        masked_mean(X, MASK.float())
    with pytest.raises(ValueError, match="x has shape"):
        masked_mean(X[:1], MASK)
