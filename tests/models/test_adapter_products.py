"""Adapters on a bfloat16 base multiply in bfloat16 and stay float32; elsewhere nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from align.models.adapter_products import multiply_in_input_dtype
from align.models.batch import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.sections import Lora

PAIRS = [([5, 6, 7], [8, 9, 10, 1]), ([11, 12], [13, 1])]


def _model(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).to(dtype).requires_grad_(False).eval()


def _forward(dtype: torch.dtype, lean: bool, **lora: Any) -> Forward:
    roles = Roles(_model(dtype))
    config = Lora(rank=3, alpha=6, targets="all-linear", **lora)
    roles.add("policy", lora_config(config, roles.base), trains=True)
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy").values():
            parameter.normal_(std=0.2, generator=drawn)
    forward = Forward(roles)
    forward.fused = lean
    return forward


def _pass(forward: Forward) -> tuple[Tensor, list[Tensor]]:
    forward.roles.zero_grad()
    logprobs, _, _ = forward.logprobs("policy", forward.prefix(collate(PAIRS)), 1.0)
    logprobs.sum().backward()
    gradients = [p.grad for p in forward.roles.parameters_of("policy").values()]
    return logprobs.detach(), [gradient for gradient in gradients if gradient is not None]


class _Products(TorchDispatchMode):
    """The precisions of all matrix products inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "bmm"):
            self.seen.append({arg.dtype for arg in args if isinstance(arg, Tensor)})
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("lean", [True, False])
def test_products_are_bfloat16_and_gradients_are_float32(lean: bool) -> None:
    forward = _forward(torch.bfloat16, lean)
    with _Products() as products:
        _, gradients = _pass(forward)
    adapted = [found for found in products.seen if found != {torch.float32}]  # rotary embeddings are float32
    assert len(adapted) > 2 * 7 * 3
    assert all(found == {torch.bfloat16} for found in adapted)
    assert len(products.seen) - len(adapted) <= 2
    parameters = forward.roles.parameters_of("policy").values()
    assert len(gradients) == len(parameters) == 2 * 7 * 2
    assert {x.dtype for x in (*parameters, *gradients)} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_without_bfloat16_every_bit_is_pefts(dtype: torch.dtype) -> None:
    forward = _forward(dtype, lean=False)
    ours = _pass(forward)
    for layer in forward.roles.base.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = True
            for part in (*layer.lora_A.values(), *layer.lora_B.values()):
                assert type(part) is not nn.Linear
                part.__class__ = nn.Linear
    theirs = _pass(forward)
    assert torch.equal(ours[0], theirs[0])
    assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


@pytest.mark.parametrize("lean", [True, False])
def test_errors_are_those_of_float32_products(lean: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to a float32 pass, log probabilities and gradients: rounding what multiplies adds little."""
    exact = _pass(_forward(torch.float32, lean))
    found = [_pass(_forward(torch.bfloat16, lean))]
    monkeypatch.setattr("align.models.fused_llama.product_dtype", lambda x, weight: weight.dtype)
    monkeypatch.setattr("align.models.adapter_products.product_dtype", lambda x, weight: weight.dtype)
    found.append(_pass(_forward(torch.bfloat16, lean)))
    ours, theirs = (
        [
            float((a.float() - b).norm() / b.norm())
            for a, b in ((logprobs, exact[0]), (_flat(gradients), _flat(exact[1])))
        ]
        for logprobs, gradients in found
    )
    assert ours != theirs
    assert all(mine < 1.5 * their < 0.2 for mine, their in zip(ours, theirs, strict=True))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([x.flatten() for x in tensors])


def test_files_of_an_adapter_are_pefts_and_dora_is_left_alone() -> None:
    model = get_peft_model(_model(torch.bfloat16), LoraConfig(target_modules=["q_proj"]))
    names = list(model.state_dict())
    multiply_in_input_dtype(model)
    multiply_in_input_dtype(model)
    assert list(model.state_dict()) == names
    dora = _forward(torch.bfloat16, lean=False, use_dora=True)
    parts = [p for m in dora.roles.base.modules() if isinstance(m, LoraLayer) for p in m.lora_A.values()]
    assert parts
    assert all(type(part) is nn.Linear for part in parts)
