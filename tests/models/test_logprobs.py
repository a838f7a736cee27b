"""Log probabilities in half precision against float64 autograd."""

from __future__ import annotations

import pytest
import torch

from align.models.logits import LastStep
from align.models.logprobs import token_logprobs


@pytest.mark.parametrize("cap", [None, 30.0])
@pytest.mark.parametrize("of_entropies", [False, True])
def test_gradients_of_confident_tokens_are_right_in_bfloat16(of_entropies: bool, cap: float | None) -> None:
    """Where p is close to 1, W_y and the mean of W cancel; what is left must not be their rounding."""
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(500, 64, generator=drawn).bfloat16()
    labels = torch.arange(40) * 7
    hidden = (0.18 * weight[labels].float() + 0.1 * torch.randn(40, 64, generator=drawn)).bfloat16()

    exact = hidden.double().requires_grad_()
    logits = exact @ weight.double().T
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(-1, labels[:, None])[:, 0]
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    (entropies if of_entropies else chosen).sum().backward()

    ours = hidden.clone().requires_grad_()
    found = token_logprobs(ours, weight, None, labels, 1.0, True, None, LastStep(1.0, cap))
    found[1 if of_entropies else 0].sum().backward()
    assert exact.grad is not None and ours.grad is not None
    errors = (ours.grad.double() - exact.grad).norm(dim=1) / exact.grad.norm(dim=1)
    confident = chosen.exp() > 0.99
    assert confident.sum() >= 10
    assert errors[confident].max() < 0.05
