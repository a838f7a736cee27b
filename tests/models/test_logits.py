"""Bases that scale or cap their logits: our log probabilities are those of the model's own logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MiniCPM3Config,
    MiniCPM3ForCausalLM,
)

from align.errors import UserError
from align.models.batch import collate
from align.models.forward import Forward
from align.models.logits import LastStep, last_step
from align.models.logprobs import token_logprobs
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.sections import Lora
from align.sampling.params import Draws, SamplingParams
from align.sampling.sampler import Hf

PAIRS = [([5, 6, 7], [8, 9, 10, 1]), ([11, 12], [13, 1]), ([20], [21, 22, 23, 24, 25, 1])]
SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}
_HEADS = {
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
}
MODELS: dict[str, tuple[Callable[[], Any], LastStep]] = {
    "gemma2": (
        lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=3.0)),
        LastStep(1.0, 3.0),
    ),
    "granite": (lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)), LastStep(0.125)),
    "cohere": (lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.3)), LastStep(0.3)),
    "hyperclovax": (
        lambda: HyperCLOVAXForCausalLM(HyperCLOVAXConfig(**SHAPE, head_dim=8, logits_scaling=0.5)),
        LastStep(0.5),
    ),
    "minicpm3": (
        lambda: MiniCPM3ForCausalLM(MiniCPM3Config(**{**SHAPE, **_HEADS}, dim_model_base=8)),
        LastStep(0.25),
    ),
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)), LastStep()),
}


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    return MODELS[kind][0]().requires_grad_(False).eval()


def roles_of(model: Any) -> Roles:
    roles = Roles(model)
    targets = ["o_proj", "down_proj"]
    roles.add("policy", lora_config(Lora(rank=4, alpha=8, targets=targets, layers=1), model), trains=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in roles.parameters_of("policy").items():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return roles


@pytest.mark.parametrize("kind", MODELS)
def test_logprobs_gradients_and_samples_are_those_of_the_models_own_logits(kind: str) -> None:
    roles = roles_of(model_of(kind))
    forward = Forward(roles)
    assert roles.last_step == MODELS[kind][1]
    ours, entropies, mask = forward.logprobs("policy", forward.prefix(collate(PAIRS)), 0.7, True)
    weights = torch.rand(2, *mask.shape)
    (ours * weights[0] + entropies * weights[1]).sum().backward()
    mine = {name: p.grad.clone() for name, p in roles.parameters_of("policy").items()}
    roles.zero_grad()
    total = torch.zeros(())
    for row, (prompt, response) in enumerate(PAIRS):  # one at a time, without padding
        whole = (roles.base(input_ids=torch.tensor([prompt + response])).logits[0] / 0.7).log_softmax(-1)
        predicted = whole[len(prompt) - 1 : -1]
        expected = predicted.gather(-1, torch.tensor(response)[:, None])[:, 0]
        entropy = -(predicted.exp() * predicted).sum(-1)
        torch.testing.assert_close(ours[row][mask[row]], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropies[row][mask[row]], entropy, rtol=1e-4, atol=1e-5)
        there = slice(0, len(response))
        total = total + (weights[0, row, there] * expected + weights[1, row, there] * entropy).sum()
    total.backward()
    for name, parameter in roles.parameters_of("policy").items():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-3, atol=1e-5)
    params = SamplingParams(0.7, 1, 0, max_tokens=5, batch_tokens=100)
    for one in Hf(roles).sample([[5, 6, 7], [8, 9]], Draws(3, "test", 0, [0, 1]), params):
        prefix = forward.prefix(collate([(one.prompt, one.response)]))
        found, _, _ = forward.logprobs("policy", prefix, 0.7)
        torch.testing.assert_close(found[0].detach(), torch.tensor(one.logprobs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", [LastStep(0.3), LastStep(1.0, 2.0), LastStep(1.7, 2.0)])
def test_scaled_and_capped_logits_pass_gradcheck_in_any_chunk(
    step: LastStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite differences in float64 for the gradients, autograd on the formula for the values."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((9, 4), (9,)))
    labels, places = torch.tensor([0, 8, 3, 3, 5]), torch.tensor([True, False, True, False, True])
    monkeypatch.setattr("align.models.logprobs._CHUNK_ELEMENTS", 18)  # two tokens at a time

    def both(h: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(h, weight, bias, labels, 0.7, True, (places, 4), step)

    assert torch.autograd.gradcheck(both, (hidden,))
    logits = (hidden @ weight.T + bias) * step.scale
    if step.cap is not None:
        logits = step.cap * torch.tanh(logits / step.cap)
    logits = (logits / 0.7).masked_fill(places[:, None] & (torch.arange(9) == 4), -1e9)
    exact = logits.log_softmax(-1)
    torch.testing.assert_close(both(hidden)[0], exact[torch.arange(5), labels])
    torch.testing.assert_close(both(hidden)[1], -(exact.exp() * exact).sum(-1))


def test_the_slope_of_a_cap_is_that_of_c_tanh_x_over_c() -> None:
    """d/dx c tanh(s x / c) = s / cosh(s x / c)^2, in closed form."""
    x = torch.linspace(-9, 9, 50, dtype=torch.float64)
    step = LastStep(0.5, 3.0)
    torch.testing.assert_close(step.slopes(step.apply_(x.clone())), 0.5 / torch.cosh(0.5 * x / 3.0) ** 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cap_that_small_logits_do_not_show_is_found(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(**{**SHAPE, "initializer_range": 0.002}, head_dim=8, final_logit_softcapping=30.0)
    model = Gemma2ForCausalLM(config).to(dtype).eval()
    logits = model(input_ids=torch.arange(1, 11)[None]).logits
    assert logits.abs().max() < 0.2
    assert last_step(model, model.base_model) == LastStep(1.0, 30.0)
    model.config.final_logit_softcapping = None
    assert last_step(model, model.base_model) == LastStep()


class _Odd(LlamaForCausalLM):
    def forward(self, *given: Any, **named: Any) -> Any:
        found = super().forward(*given, **named)
        found.logits = found.logits.sign() * found.logits.abs().sqrt()
        return found


class _Narrower(LlamaForCausalLM):
    def forward(self, *given: Any, **named: Any) -> Any:
        found = super().forward(*given, **named)
        found.logits = found.logits[..., :-1]
        return found


@pytest.mark.parametrize("kind", [_Odd, _Narrower])
def test_another_last_step_is_refused_by_name_and_not_for_scores(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind(LlamaConfig(**SHAPE)).requires_grad_(False).eval()
    roles = roles_of(model)
    with pytest.raises(UserError, match=f"base: {kind.__name__} gives other logits than its output layer"):
        Forward(roles)
    roles.add_head("policy", torch.Generator().manual_seed(1))
    forward = Forward(roles, logits=False)
    assert forward.scores("policy", forward.prefix(collate(PAIRS))).shape == (3,)
