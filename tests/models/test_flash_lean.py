"""Lean passes with flash attention: a stand-in takes the kernel's place, which no CPU has.

It does what transformers asks of the kernel: causal attention, of tokens that the mask [B, L] has, with fewer
keys than queries. So it shows which arguments come, and that the numbers are those of sdpa.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_fused_llama import KINDS, PAIRS, _both, _model, _roles
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from align.models import fused_llama
from align.models.batch import collate
from align.models.forward import Forward

NAME = "flash_attention_2"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each call of the kernel gets."""
    calls: list[dict[str, Any]] = []

    def flash(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        assert module.is_causal
        assert (dropout, sliding_window) == (0.0, None)
        length = query.shape[2]
        calls.append({"heads": (query.shape[1], key.shape[1]), "length": length, "mask": attention_mask})
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :].bool()
        found = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=True)
        return found.transpose(1, 2).contiguous(), None

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, flash)
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_gradients_are_transformers_own_with_flash(kind: str, seen: list[dict[str, Any]]) -> None:
    model = _model(kind)
    model.config._attn_implementation = NAME
    forward = Forward(_roles(model))
    assert forward.fused, forward.remarks()
    prefix = forward.prefix(collate(PAIRS, pad_id=1))
    weights = torch.rand(3, 6)
    seen.clear()
    ours, theirs = _both(forward, lambda: (forward.logprobs("policy", prefix, 0.7)[0] * weights).sum())
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-4)
    # Lean: two of three layers, without a mask; the last takes sdpa where hidden states are read.
    assert [call["mask"] is None for call in seen] == [True] * 2 + [False] * 3
    assert all(call["heads"] == (4, 2) and call["length"] == 7 for call in seen)


def test_a_kernel_that_gives_other_numbers_is_left_to_transformers(
    seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = AttentionInterface._global_mapping[NAME]

    def wrong(*args: Any, **named: Any) -> tuple[Tensor, None]:
        return right(*args, **named)[0] * 1.1, None

    monkeypatch.setattr(fused_llama, "ALL_ATTENTION_FUNCTIONS", {NAME: wrong})
    model = _model()
    model.config._attn_implementation = NAME
    forward = Forward(_roles(model))
    assert not forward.fused
    assert forward.remarks() == [
        "no lean passes on LlamaForCausalLM: they give other numbers than its own passes"
    ]
