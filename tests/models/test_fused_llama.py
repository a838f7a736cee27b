"""The lean decoder against transformers' own: same numbers and gradients, less work, only where it fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from align.models import fused_llama
from align.models.batch import collate
from align.models.forward import Forward, response_positions
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.sections import Lora

PAIRS = [([5, 6, 7], [8, 9, 10, 1]), ([11, 12], [13, 1]), ([20], [21, 22, 23, 24, 25, 1])]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = ["llama", "mistral", "qwen2", "qwen3"]


def _model(kind: str = "llama", **changes: Any) -> PreTrainedModel:
    classes: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    config, model = classes[kind]
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    own = {"sliding_window": None} if kind == "mistral" else {}
    made = model(config(**{**sizes, **heads, "initializer_range": 0.3, **own, **changes}))
    with torch.no_grad():  # norms that start at 1, and biases at 0, would hide what is left out
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand_like(parameter) + (0.5 if "norm" in name else -0.5))
    return made.requires_grad_(False).eval()


def _roles(model: PreTrainedModel, layers: int | None = None) -> Roles:
    roles = Roles(model)
    config = lora_config(Lora(rank=3, alpha=6, targets=LINEAR, layers=layers), model)
    for role in ("policy", "value"):
        roles.add(role, config, trains=True)
    roles.add_head("value", torch.Generator().manual_seed(1))
    with torch.no_grad():
        for role in ("policy", "value"):
            for parameter in roles.parameters_of(role).values():
                parameter.normal_(std=0.2)
    return roles


def _both(forward: Forward, loss: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and gradients of all adapters and heads, lean and by transformers' own forward pass."""
    found: list[list[Tensor]] = []
    assert forward.fused
    for way in (True, False):
        forward.fused = way
        forward.roles.zero_grad()
        value = loss()
        value.backward()
        gradients = [p.grad for p in forward.roles.parameters() if p.grad is not None]
        found.append([value.detach(), *(gradient.clone() for gradient in gradients)])
    forward.fused = True
    return found[0], found[1]


@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_gradients_are_transformers_own(kind: str, layers: int | None) -> None:
    forward = Forward(_roles(_model(kind), layers))
    prefix = forward.prefix(collate(PAIRS, pad_id=1))
    weights = torch.rand(3, 6)

    def policy() -> Tensor:
        return (forward.logprobs("policy", prefix, 0.7)[0] * weights).sum()

    def value() -> Tensor:
        return (forward.values("value", prefix) * weights).sum()

    for loss, count in ((policy, 14 * (layers or 3)), (value, 14 * (layers or 3) + 1)):
        ours, theirs = _both(forward, loss)
        assert len(ours) == len(theirs) == 1 + count
        for mine, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-4)


def test_adapters_may_be_more_precise_than_the_base() -> None:
    found: list[list[Tensor]] = []
    for dtype in (torch.float32, torch.bfloat16):
        forward = Forward(_roles(_model().to(dtype)))
        assert {p.dtype for p in forward.roles.parameters_of("policy").values()} == {torch.float32}
        prefix = forward.prefix(collate(PAIRS, pad_id=1))
        found += _both(forward, lambda: forward.logprobs("policy", prefix, 1.0)[0].sum())  # noqa: B023
    exact, _, ours, theirs = ([gradient.double() for gradient in one] for one in found)
    errors = [
        sum(float((a - b).norm() / b.norm()) for a, b in zip(one, exact, strict=True))
        for one in (ours, theirs)
    ]
    assert errors[0] <= 1.2 * errors[1]  # it rounds no more than transformers does


def test_the_last_layer_runs_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Forward(_roles(_model()))
    prefix = forward.prefix(collate(PAIRS, pad_id=1))  # 3 rows of 7
    seen: list[int] = []

    def linear(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x.shape[:-1].numel())
        return nn.functional.linear(x, *rest)

    monkeypatch.setattr(fused_llama, "F", SimpleNamespace(**{**vars(nn.functional), "linear": linear}))
    forward.scores("value", prefix)
    below, keys_and_values, read = [21] * 14, [21] * 2, [3] * 5
    assert seen == below + keys_and_values + read


@pytest.mark.parametrize("at", [None, torch.tensor([[4, 2], [0, 3]])])
def test_roles_that_do_not_train_keep_no_activations(at: Tensor | None) -> None:
    roles = _roles(_model())
    for parameter in roles.parameters():
        parameter.requires_grad_(False)
    hidden = torch.rand(2, 5, 32)
    assert not fused_llama.decode(roles.decoder, "policy", hidden, 0, at=at).requires_grad


@pytest.mark.parametrize(
    "changes",
    [{"attn_implementation": "eager"}, {"sliding_window": 4}, {"hidden_act": "gelu"}],
)
def test_what_it_does_not_know_is_left_to_transformers(changes: dict[str, Any]) -> None:
    assert not fused_llama.suits(_model("mistral", **changes).base_model)
    assert fused_llama.suits(_model("mistral").base_model)


def test_dora_is_left_to_transformers() -> None:
    roles = Roles(_model())
    config = lora_config(Lora(rank=2, alpha=2, targets=["v_proj"]), roles.base)
    config.use_dora = True
    roles.add("policy", config, trains=True)
    assert not fused_llama.suits(roles.decoder)


def test_a_model_that_gives_other_numbers_is_left_to_transformers() -> None:
    roles = _roles(_model())
    norm: nn.Module = roles.decoder.norm
    norm.register_forward_hook(lambda module, inputs, output: output * 1.01)
    forward = Forward(roles)
    assert fused_llama.suits(roles.decoder) and not forward.fused
    prefix = forward.prefix(collate(PAIRS, pad_id=1))
    at, _ = response_positions(prefix)
    assert forward.hidden("policy", prefix, at).shape == (3, 6, 32)
