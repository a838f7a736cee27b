"""Operations of a pass, beside those that torch's own counter sees go by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from align.plan.flops import again, pairs_of, pass_flops, work_of

LLAMA = LlamaConfig(
    hidden_size=48,
    intermediate_size=112,
    num_hidden_layers=5,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_size=331,
)
QWEN3 = Qwen3Config(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=32,
    vocab_size=203,
    tie_word_embeddings=True,
)
GPT2 = GPT2Config(n_embd=48, n_layer=3, n_head=4, vocab_size=97, n_positions=64)


def adapted(config: Any, layers: list[int] | None) -> Any:
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    lora = LoraConfig(r=4, target_modules="all-linear")
    if layers:
        lora.target_modules, lora.layers_to_transform = {"q_proj", "down_proj"}, layers
    return get_peft_model(model, lora, adapter_name="policy")


@pytest.mark.parametrize(
    ("config", "layers"),
    [(LLAMA, None), (LLAMA, [3, 4]), (QWEN3, None), (GPT2, None)],
    ids=["llama", "upper", "qwen3", "gpt2"],
)
def test_a_pass_has_the_operations_that_torch_counts(config: Any, layers: list[int] | None) -> None:
    model = adapted(config, layers)
    rows, length = 3, 40
    ids = torch.zeros(rows, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    work = work_of(model.get_base_model(), "policy")
    tokens, pairs = rows * length, rows * length**2  # eager attention computes all pairs, and hides half
    ours = pass_flops(work, tokens, pairs, read=tokens)
    assert ours == forward.get_total_flops()
    whole = pass_flops(work, tokens, pairs, read=tokens, backward=True)
    counted = forward.get_total_flops() + backward.get_total_flops()
    # The lowest adapted layer's inputs need no gradient: at most that layer's backward is counted too much.
    layer = (work.upper * 2 * tokens) // (len(layers) if layers else config.num_hidden_layers)
    assert counted <= whole <= counted + layer


def test_a_base_without_adapters_and_known_numbers() -> None:
    """Llama 3.1 8B: 6.98e9 weights in its layers' matrices, so 13.96e9 operations a token."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    work = work_of(model)
    assert work.lower == work.adapter == 0
    assert work.upper == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert work.output == 4096 * 128256
    assert work.upper_pair == 32 * 2 * 4096
    assert pass_flops(work, 1, 0) == pytest.approx(13.96e9, rel=1e-3)


def test_lower_layers_run_once_and_checkpointing_runs_the_upper_ones_again() -> None:
    work = work_of(adapted(LLAMA, [3, 4]).get_base_model(), "policy")
    assert work.lower * 2 == work.upper * 3  # three layers of five
    whole, upper = (pass_flops(work, 10, 55, lower=lower) for lower in (True, False))
    assert whole - upper == 2 * (work.lower * 10 + work.lower_pair * 55)
    assert again(work, 10, 55) == upper
    assert pairs_of([1, 3]) == 1 + 6
