"""A ranking in one row against transformers' own passes over one response at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from align.data.tokenize import Encoded
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.packed import pack, separate_rows, size
from align.models.probes import share_prompts
from align.models.roles import Roles
from align.recipe.sections import Lora

RANKINGS = [
    Encoded([5, 6, 7, 30], [[8, 9, 10, 1], [11, 1], [12, 13, 14, 15, 16, 1]]),
    Encoded([20, 21], [[22, 23, 1], [24, 1]]),
    Encoded([40], [[41, 42, 43, 44, 45, 46, 47, 1]]),
]
COMMON: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "initializer_range": 0.2,  # small weights would hide a token that is seen and must not be
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
ABSOLUTE = {"vocab_size": 50, "n_embd": 32, "n_layer": 4, "n_head": 4, "initializer_range": 0.2}
TARGETS = {"gpt2": "all-linear", "gpt_neox": ["query_key_value"], "bloom": ["query_key_value"]}


def model(kind: str, attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**ABSOLUTE, n_positions=64)),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**{**GROUPED, **changes})),
        "bloom": lambda: BloomForCausalLM(BloomConfig(**ABSOLUTE)),
        "mamba": lambda: MambaForCausalLM(
            MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=4, initializer_range=0.2)
        ),
    }[kind]()
    if kind != "mamba":
        made.set_attn_implementation(attention)
    return made.requires_grad_(False).eval()


def with_reward(made: PreTrainedModel, layers: int | None = 2) -> Forward:
    """A reward role whose adapter and head are not zero."""
    roles = Roles(made)
    kind = made.config.model_type
    targets = TARGETS.get(kind, ["in_proj"] if kind == "mamba" else ["q_proj", "v_proj", "down_proj"])
    layers = None if kind in ("gpt2", "mamba", "bloom") else layers
    adapter = lora_config(Lora(rank=4, alpha=8, targets=targets, layers=layers), made)
    roles.add("reward", adapter, trains=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in roles.parameters_of("reward").items():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    roles.add_head("reward", torch.Generator().manual_seed(2))
    return Forward(roles)


def scores_of(forward: Forward, batch: Any) -> Tensor:
    scores: Tensor = forward.roles.heads["reward"](forward.ends("reward", batch))
    return scores


def one_by_one(forward: Forward) -> Tensor:
    """Each response alone through transformers' own pass: no padding, no mask, no positions."""
    head, decoder = forward.roles.heads["reward"], forward.roles.base.base_model
    scores = [
        head(decoder(input_ids=torch.tensor([ranking.prompt + response])).last_hidden_state[0, -1])
        for ranking in RANKINGS
        for response in ranking.responses
    ]
    return torch.stack(scores)


def gradients(forward: Forward, scores: Tensor) -> dict[str, Tensor]:
    forward.roles.zero_grad()
    (scores * torch.linspace(-1, 2, len(scores))).sum().backward()
    named = forward.roles.parameters_of("reward")
    return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2", "neox"])
def test_scores_and_gradients_are_those_of_one_response_at_a_time(kind: str, attention: str) -> None:
    forward = with_reward(model(kind, attention))
    assert share_prompts(forward, "reward", 64) is None
    assert forward.share_prompt
    expected = one_by_one(forward)
    expected_gradients = gradients(forward, expected)
    assert expected.std() > 0.1
    for batch in (pack(RANKINGS), separate_rows(RANKINGS)):
        scores = scores_of(forward, batch)
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
        found = gradients(forward, scores)
        assert found.keys() == expected_gradients.keys()
        for name, gradient in found.items():
            size = float(expected_gradients[name].abs().max())
            torch.testing.assert_close(
                gradient, expected_gradients[name], rtol=1e-4, atol=1e-5 * max(size, 1)
            )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_half_precision_is_near(attention: str) -> None:
    forward = with_reward(model("llama", attention).bfloat16())
    assert share_prompts(forward, "reward", 64) is None
    packed, expected = scores_of(forward, pack(RANKINGS)), one_by_one(forward)
    assert packed.dtype == torch.float32
    assert (packed - expected).norm() < 0.05 * expected.norm()
    assert all(g.isfinite().all() for g in gradients(forward, packed).values())


def test_the_layers_below_the_lowest_adapter_run_once_and_without_a_graph() -> None:
    forward = with_reward(model("llama"), layers=1)
    assert forward.split == 3
    seen: list[tuple[int, bool]] = []
    for number, layer in enumerate(forward.roles.decoder.layers):
        layer.register_forward_hook(lambda _m, _i, out, n=number: seen.append((n, out.requires_grad)))
    scores = scores_of(forward, pack(RANKINGS))
    assert seen == [(0, False), (1, False), (2, False), (3, True)]
    torch.testing.assert_close(scores, one_by_one(forward), rtol=1e-5, atol=1e-5)


def test_a_ranking_is_laid_out_by_hand() -> None:
    packed = pack([Encoded([5, 6], [[7, 1], [8, 9, 1]]), Encoded([5], [[1]])])
    assert packed.input_ids.tolist() == [[5, 6, 7, 1, 8, 9, 1], [5, 1, 0, 0, 0, 0, 0]]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 2, 3, 4]
    assert list(zip(packed.rows.tolist(), packed.columns.tolist(), strict=True)) == [(0, 3), (0, 6), (1, 1)]
    mask = packed.inputs(torch.device("cpu"), torch.float32)["attention_mask"]
    assert mask.shape == (2, 1, 7, 7)
    sees = [[column for column, value in enumerate(row) if value == 0] for row in mask[0, 0].tolist()]
    assert sees == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5], [0, 1, 4, 5, 6]]


def test_padding_is_seen_by_nobody_and_gives_no_nan() -> None:
    forward = with_reward(model("llama", "eager"))
    packed = pack(RANKINGS)
    assert (packed.branch == -1).any()
    inputs = packed.inputs(torch.device("cpu"), torch.float32)
    assert (inputs["attention_mask"] == 0).any(-1).all()  # every row of every softmax has something
    hidden = forward._upper("reward", packed.input_ids, forward._lower(packed.input_ids, **inputs), **inputs)
    assert hidden.isfinite().all()
    other = replace(packed, input_ids=packed.input_ids.masked_fill(packed.branch == -1, 49))
    torch.testing.assert_close(scores_of(forward, packed), scores_of(forward, other), rtol=0, atol=0)


def test_what_a_ranking_takes() -> None:
    assert size(RANKINGS[0], share_prompt=True) == (1, 4 + 4 + 2 + 6)
    assert size(RANKINGS[0], share_prompt=False) == (3, 4 + 6)


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_without_such_masks_or_positions_is_found_out(kind: str) -> None:
    forward = with_reward(model(kind, "eager"))
    reason = share_prompts(forward, "reward", 64)
    assert reason is not None and type(forward.roles.base).__name__ in reason
    assert not forward.share_prompt


def test_a_window_shorter_than_a_response_with_its_prompt_is_found_out() -> None:
    forward = with_reward(model("mistral", sliding_window=12))
    assert "see 12 tokens back" in (share_prompts(forward, "reward", 13) or "")
    assert share_prompts(forward, "reward", 12) is None
    torch.testing.assert_close(  # rows are longer than the window, and no single sequence is
        scores_of(forward, pack(RANKINGS)), one_by_one(forward), rtol=1e-5, atol=1e-5
    )


def test_flash_attention_is_refused_by_name() -> None:
    forward = with_reward(model("llama"))
    forward.roles.base.config._attn_implementation = "flash_attention_2"
    assert "base.attention: sdpa" in (share_prompts(forward, "reward", 64) or "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_ignores_what_it_is_given_is_found_out(ignored: str, dtype: torch.dtype) -> None:
    class Deaf(nn.Module):
        def __init__(self, decoder: nn.Module) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, **inputs: Any) -> Any:
            given = inputs.get(ignored)
            if given is not None and (ignored == "position_ids" or given.ndim == 4):
                del inputs[ignored]
            return self.decoder(**inputs)

    forward = with_reward(model("gpt2").to(dtype))
    assert share_prompts(forward, "reward", 64) is None
    forward.roles.base.transformer = Deaf(forward.roles.base.transformer)
    assert share_prompts(forward, "reward", 64) is not None
