"""How many tokens are decoded together: what the recipe says, or what a GPU's whole memory holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MambaConfig

from align.models.base import BaseCheckpoint
from align.recipe.ppo import PPO
from align.recipe.sections import Base
from align.sampling import engines

GPU, CPU = torch.device("cuda"), torch.device("cpu")
LLAMA_8B = LlamaConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=None
)


def _base(config: Any, dtype: str = "bfloat16") -> BaseCheckpoint:
    base: Any = SimpleNamespace(config=config, spec=Base(name="x", dtype=dtype))
    base.cache_bytes = lambda device: BaseCheckpoint.cache_bytes(base, device)
    return base


def _eighty_gib(device: torch.device) -> int:
    return 80 * 2**30 if device.type == "cuda" else 0


def test_a_tokens_keys_and_values_are_counted() -> None:
    assert _base(LLAMA_8B).cache_bytes(CPU) == 128 * 1024  # as the literature has it for Llama 3 8B
    assert _base(LLAMA_8B, "float32").cache_bytes(CPU) == 256 * 1024
    assert _base(MambaConfig()).cache_bytes(CPU) is None


@pytest.mark.parametrize(
    ("fields", "device", "expected"),
    [
        ({}, GPU, 80 * 2**30 // 8 // (128 * 1024)),  # 81,920: 10 GiB
        ({"microbatch_tokens": 40_000}, GPU, 160_000),
        ({"sampling_tokens": 1000}, GPU, 1000),
        ({"engine": "paged"}, GPU, 4 * 8192),
        ({}, CPU, 4 * 8192),
        ({"sampling_tokens": 1000}, CPU, 1000),
    ],
)
def test_a_batch_is_what_memory_holds_unless_the_recipe_says_it(
    fields: dict[str, Any], device: torch.device, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "gpu_memory", _eighty_gib)
    assert engines.batch_tokens(PPO(**fields), _base(LLAMA_8B), device) == expected


def test_a_base_that_does_not_say_what_it_keeps_has_four_microbatches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "gpu_memory", _eighty_gib)
    assert engines.batch_tokens(PPO(), _base(MambaConfig()), GPU) == 4 * 8192
