"""Log probabilities in half precision against float64 autograd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from align.models.logits import LastStep
from align.models.logprobs import LOGIT_BYTES, logit_chunk, token_logprobs


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


@pytest.mark.parametrize(
    ("gibibytes", "vocab", "tokens"),
    [(80, 128_256, 1024), (80, 32_000, 4096), (24, 151_936, 128), (16, 256_000, 65), (4, 256_000, 16)],
)
def test_a_chunk_of_logits_is_a_small_share_of_the_gpu(
    gibibytes: int, vocab: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda", 0)
    for missing in (0, 700 << 20):  # a card has less than its name says, and its siblings differ
        memory = (gibibytes << 30) - missing
        found = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=found: found)
        chunk = logit_chunk(device, vocab)
        assert chunk * vocab * LOGIT_BYTES <= memory / 32 or gibibytes == 4
    assert chunk == tokens


def test_on_a_cpu_a_chunk_is_what_it_was() -> None:
    assert logit_chunk(torch.device("cpu"), 49_152) == 682


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_operations_grow_with_the_number_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = torch.randn(64, 8, requires_grad=True), torch.randn(50, 8)
    counts: list[int] = []
    gradients: list[torch.Tensor] = []
    for tokens in (32, 16, 4):
        monkeypatch.setattr("align.models.logprobs.logit_chunk", lambda *_, tokens=tokens: tokens)
        with _Operations() as operations:
            logprobs, _ = token_logprobs(hidden, weight, None, torch.arange(64) % 50, 1.0)
        counts.append(operations.count)
        gradients.append(torch.autograd.grad(logprobs.sum(), hidden)[0])
    each = (counts[1] - counts[0]) // 2
    assert counts[1:] == [counts[0] + 2 * each, counts[0] + 14 * each]
    assert 0 < each <= 40  # views among them
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])
