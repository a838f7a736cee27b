"""KL estimators against the table in Schulman's note and exact KLs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.objectives.kl import k1, k2, k3

ALL = [k1, k2, k3]
quietly = settings(deadline=None, derandomize=True)  # no failures by load or by luck


# mean of the reference, KL, then (bias / KL, standard deviation / KL) of k1, k2, k3, as the note has them
@pytest.mark.parametrize(
    ("mean", "kl", "table"),
    [
        (0.1, 0.005, [(0, 20), (0.002, 1.42), (0, 1.42)]),
        (1.0, 0.5, [(0, 2), (0.25, 1.73), (0, 1.7)]),
    ],
)
def test_schulmans_table(mean: float, kl: float, table: list[tuple[float, float]]) -> None:
    """Samples from N(0, 1), reference N(mean, 1), integrated on a fine grid instead of sampled."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    logprobs = -x.square() / 2 - math.log(2 * math.pi) / 2
    ref_logprobs = -(x - mean).square() / 2 - math.log(2 * math.pi) / 2
    weights = logprobs.exp() * (x[1] - x[0])
    for estimator, (bias, deviation) in zip(ALL, table, strict=True):
        estimate = estimator(logprobs, ref_logprobs)
        expectation = (weights * estimate).sum()
        variance = (weights * (estimate - expectation).square()).sum()
        assert (expectation.item() - kl) / kl == pytest.approx(bias, abs=1e-3)
        assert variance.sqrt().item() / kl == pytest.approx(deviation, rel=0.02)


def test_k1_and_k3_average_to_the_kl_of_two_coins() -> None:
    policy, reference = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.5, 0.5]).log()
    exact = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    for estimator in (k1, k3):
        assert (policy.exp() * estimator(policy, reference)).sum().item() == pytest.approx(exact, abs=1e-6)


def test_by_hand_and_the_sign() -> None:
    logprobs, ref_logprobs = torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -1.0])
    assert k1(logprobs, ref_logprobs).tolist() == [1, -2]  # a negative one stays negative
    assert k2(logprobs, ref_logprobs).tolist() == [0.5, 2]
    assert k3(logprobs, ref_logprobs).tolist() == pytest.approx([math.exp(-1), math.exp(2) - 3])


@quietly
@given(st.lists(st.floats(-30, 0), min_size=1, max_size=9))
def test_equal_policies_have_kl_0(logprobs: list[float]) -> None:
    x = torch.tensor(logprobs)
    for estimator in ALL:
        assert estimator(x, x).tolist() == [0.0] * len(logprobs)


@quietly
@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k2_and_k3_are_never_negative(a: float, b: float) -> None:
    x, y = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    assert k2(x, y).item() >= 0
    assert k3(x, y).item() >= -1e-15


def test_k3_of_nearly_equal_policies_is_no_rounding_noise() -> None:
    logprobs, ref_logprobs = torch.tensor([0.0]), torch.tensor([1e-4])
    assert k3(logprobs, ref_logprobs).dtype == torch.float32
    assert k3(logprobs, ref_logprobs).item() == pytest.approx(5.00017e-9, rel=0.01)


def test_half_precision_is_upcast_before_subtracting() -> None:
    a = torch.tensor([-100.5], dtype=torch.bfloat16)
    b = torch.tensor([-0.0625], dtype=torch.bfloat16)
    for estimator in ALL:
        assert estimator(a, b).dtype == torch.float32
    assert k1(a, b).item() == -100.4375  # bfloat16 would say -100.5


@pytest.mark.parametrize("estimator", ALL)
def test_gradients_and_shapes(estimator) -> None:  # type: ignore[no-untyped-def]
    x = torch.tensor([-1.0, -3.0, -0.2], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([-2.0, -1.0, -0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(estimator, (x, y))
    with pytest.raises(ValueError, match="shapes"):
        estimator(x, y.unsqueeze(0))
