"""Importance weights and the reverse KL, against sums over a whole small vocabulary."""

from __future__ import annotations

import math

import pytest
import torch

from align.objectives.importance import truncated_weights
from align.objectives.kl import reverse_k3

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.4, 0.2, 0.1, 0.3], dtype=torch.float64)


def test_the_reverse_estimate_has_the_exact_mean() -> None:
    """Tokens drawn from P, weighted by P: sum_i P_i (r_i log r_i - (r_i - 1)) = KL(Q || P)."""
    estimates = reverse_k3(P.log()[None], Q.log()[None])
    assert bool((estimates >= 0).all())
    exact = float((Q * (Q / P).log()).sum())
    assert float((P * estimates).sum()) == pytest.approx(exact, rel=1e-12)
    assert exact != pytest.approx(float((P * (P / Q).log()).sum()), rel=0.05)  # the other direction


def test_equal_policies_have_none_and_far_ones_do_not_overflow() -> None:
    same = torch.full((1, 3), -2.0)
    assert float(reverse_k3(same, same).sum()) == 0
    assert math.isfinite(float(reverse_k3(torch.tensor([[-200.0]]), torch.tensor([[0.0]]))))


def test_weights_turn_the_engines_mean_into_the_trainers() -> None:
    mask = torch.ones(1, 4, dtype=torch.bool)
    rewards = torch.tensor([1.0, -2.0, 3.0, 5.0], dtype=torch.float64)
    weights = truncated_weights(P.log()[None], Q.log()[None], mask, cap=10.0)[0]
    assert float((Q * weights * rewards).sum()) == pytest.approx(float((P * rewards).sum()), rel=1e-12)


def test_weights_are_cut_at_the_cap_and_padding_has_none() -> None:
    mask = torch.tensor([[True, True, False]])
    logprobs = torch.tensor([[0.0, -3.0, 7.0]])
    engine = torch.tensor([[-1.0, -1.0, float("nan")]])
    weights = truncated_weights(logprobs, engine, mask, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([[2.0, math.exp(-2), 0.0]]))
    with pytest.raises(ValueError, match="cap"):
        truncated_weights(logprobs, engine, mask, cap=0.0)
