"""Our passes against transformers' own: same numbers, whatever is split, packed or padded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from align.models.batch import collate, response_positions, stack
from align.models.forward import Forward
from align.models.logprobs import token_logprobs
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.sections import Lora

PAIRS = [([5, 6, 7], [8, 9, 10, 1]), ([11, 12], [13, 1]), ([20], [21, 22, 23, 24, 25, 1])]


def _roles(base: Path, layers: int | None = 2, model=None) -> Roles:
    model = model or AutoModelForCausalLM.from_pretrained(base).requires_grad_(False).eval()
    roles = Roles(model)
    for role, trains in (("policy", True), ("reference", False), ("value", True)):
        targets = "all-linear" if model.config.model_type == "gpt2" else ["q_proj", "v_proj"]
        if model.config.model_type == "gpt_neox":
            targets = ["query_key_value"]
        roles.add(
            role, lora_config(Lora(rank=4, alpha=8, targets=targets, layers=layers), model), trains=trains
        )
        torch.manual_seed(len(role))
        with torch.no_grad():
            for name, parameter in roles.parameters_of(role).items():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
    roles.add_head("value", torch.Generator().manual_seed(1))
    return roles


def test_logprobs_are_those_of_the_models_own_logits(tiny_base: Path) -> None:
    roles = _roles(tiny_base)
    forward = Forward(roles)
    assert forward.split == 2
    batch = collate(PAIRS, pad_id=0)
    ours, entropy, mask = forward.logprobs("policy", forward.prefix(batch), temperature=0.7)
    for row, (prompt, response) in enumerate(PAIRS):  # one at a time, without padding
        ids = torch.tensor([prompt + response])
        distribution = (roles.base(input_ids=ids).logits[0] / 0.7).log_softmax(-1)
        predicted = distribution[len(prompt) - 1 : -1]
        expected = predicted[torch.arange(len(response)), torch.tensor(response)]
        torch.testing.assert_close(ours[row][mask[row]], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            entropy[row][mask[row]], -(predicted.exp() * predicted).sum(-1), rtol=1e-5, atol=1e-5
        )
    assert not ours[~mask].any() and not entropy[~mask].any()


def test_gradients_are_those_of_the_models_own_logits(tiny_base: Path) -> None:
    roles = _roles(tiny_base)
    forward = Forward(roles)
    weights = torch.rand(3, 6)
    batch = collate(PAIRS, pad_id=0)
    logprobs, _, _ = forward.logprobs("policy", forward.prefix(batch), temperature=0.7)
    (logprobs * weights).sum().backward()
    ours = {name: p.grad.clone() for name, p in roles.parameters_of("policy").items()}
    roles.zero_grad()
    expected = torch.zeros(())
    for row, (prompt, response) in enumerate(PAIRS):
        distribution = (roles.base(input_ids=torch.tensor([prompt + response])).logits[0] / 0.7).log_softmax(
            -1
        )
        for t, token in enumerate(response):
            expected = expected + weights[row, t] * distribution[len(prompt) - 1 + t, token]
    expected.backward()
    for name, parameter in roles.parameters_of("policy").items():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_token_logprobs_pass_gradcheck_in_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    labels = torch.tensor([0, 3, 6, 2, 2])
    whole, _ = token_logprobs(hidden, weight, bias, labels, 0.5)
    monkeypatch.setattr("align.models.logprobs._CHUNK_ELEMENTS", 14)  # two tokens at a time
    parts, _ = token_logprobs(hidden, weight, bias, labels, 0.5)
    torch.testing.assert_close(whole, parts)
    expected = ((hidden @ weight.T + bias) / 0.5).log_softmax(-1)[torch.arange(5), labels]
    torch.testing.assert_close(parts.double(), expected, rtol=1e-5, atol=1e-5)
    (mine,) = torch.autograd.grad(parts.sum(), hidden)
    (theirs,) = torch.autograd.grad(expected.sum(), hidden)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_barred_token_has_no_probability_in_values_and_gradients() -> None:
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64)
    labels, places = torch.tensor([0, 3, 6, 2, 4]), torch.tensor([True, False, True, True, False])
    ours = token_logprobs(hidden, weight, None, labels, 0.5, True, (places, 4))
    logits = (hidden @ weight.T / 0.5).masked_fill(places[:, None] & (torch.arange(7) == 4), -1e9)
    expected = logits.log_softmax(-1)
    entropies = -(expected.exp() * expected).sum(-1)
    theirs = expected[torch.arange(5), labels], entropies
    slopes = torch.randn(2, 5, dtype=torch.float64)
    for mine, right, slope in zip(ours, theirs, slopes, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-5)
        (a,) = torch.autograd.grad((mine * slope).sum(), hidden, retain_graph=True)
        (b,) = torch.autograd.grad((right * slope).sum(), hidden, retain_graph=True)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_minimum_is_counted_from_each_rows_own_response(tiny_base: Path) -> None:
    forward = Forward(_roles(tiny_base), eos_id=1, min_response_tokens=2)
    unaware = Forward(forward.roles)
    prefix = forward.prefix(collate([(prompt, [8, 9, 10]) for prompt, _ in PAIRS], pad_id=0))
    ours, _, _ = forward.logprobs("policy", prefix, 1.0)
    free, _, _ = unaware.logprobs("policy", prefix, 1.0)
    assert (ours > free).tolist() == [[True, True, False]] * 3
    demonstrations, _, _ = forward.logprobs("policy", prefix, 1.0, end_anywhere=True)
    assert torch.equal(demonstrations, free)


def test_values_and_scores_are_read_at_the_right_token(tiny_base: Path) -> None:
    roles = _roles(tiny_base)
    forward = Forward(roles)
    prefix = forward.prefix(collate(PAIRS, pad_id=1))  # the padding's id is EOS, and must not matter
    values, scores = forward.values("value", prefix), forward.scores("value", prefix)
    for row, (prompt, response) in enumerate(PAIRS):
        hidden = roles.base.base_model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0]
        per_token = hidden @ roles.heads["value"].weight
        torch.testing.assert_close(scores[row], per_token[-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            values[row, : len(response)], per_token[len(prompt) - 1 : -1], rtol=1e-4, atol=1e-5
        )


def test_rows_stacked_anew_give_the_same(tiny_base: Path) -> None:
    forward = Forward(_roles(tiny_base))
    prefix = forward.prefix(collate(PAIRS, pad_id=0))
    whole, _, _ = forward.logprobs("policy", prefix, 1.0)
    rows = prefix.rows()
    part, _, _ = forward.logprobs("policy", stack([rows[1], rows[0]]), 1.0)
    torch.testing.assert_close(part, whole[[1, 0], : part.shape[1]], rtol=1e-5, atol=1e-6)


def test_a_response_starts_one_place_before_its_first_token(tiny_base: Path) -> None:
    forward = Forward(_roles(tiny_base))
    at, mask = response_positions(forward.prefix(collate(PAIRS, pad_id=0)))
    assert at[mask].tolist() == [2, 3, 4, 5, 1, 2, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["gpt2", "neox", "qwen2", "qwen3"])
def test_other_architectures_give_their_own_logprobs(tiny_base: Path, kind: str) -> None:
    torch.manual_seed(0)
    common = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    models = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=4, n_head=4)),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**common, intermediate_size=64)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common, intermediate_size=64, num_key_value_heads=2)),
        "qwen3": lambda: Qwen3ForCausalLM(
            Qwen3Config(**common, intermediate_size=64, num_key_value_heads=2, head_dim=8)
        ),
    }
    model = models[kind]().requires_grad_(False).eval()
    roles = _roles(tiny_base, layers=None if kind == "gpt2" else 2, model=model)
    forward = Forward(roles)
    ours, _, mask = forward.logprobs("policy", forward.prefix(collate(PAIRS, pad_id=0)), 1.0)
    for row, (prompt, response) in enumerate(PAIRS):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected = logits[len(prompt) - 1 : -1][torch.arange(len(response)), torch.tensor(response)]
        torch.testing.assert_close(ours[row][mask[row]], expected, rtol=1e-4, atol=1e-4)


def test_each_layer_keeps_its_own_kind_of_attention_when_the_lower_ones_are_run_apart() -> None:
    """Sequences longer than the window, odd layers sliding: a short probe would not see a swap."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        initializer_range=0.3,
        use_sliding_window=True,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    model = Qwen2ForCausalLM(config).requires_grad_(False).eval()
    roles = Roles(model)
    adapter = lora_config(Lora(rank=2, alpha=2, targets=["q_proj"], layers=1), model)
    roles.add("policy", adapter, trains=True)
    forward = Forward(roles)
    assert forward.split == 3
    prompt, response = list(range(2, 32)), [5, 6, 7, 1]
    ours, _, _ = forward.logprobs("policy", forward.prefix(collate([(prompt, response)], pad_id=0)), 1.0)
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    expected = logits[len(prompt) - 1 : -1][torch.arange(4), torch.tensor(response)]
    torch.testing.assert_close(ours[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_logprobs_and_entropies_have_autograds_gradients(bias: bool) -> None:
    """The fused backward against finite differences, in float64."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 4, generator=draw, dtype=torch.float64)
    offset = torch.randn(9, generator=draw, dtype=torch.float64) if bias else None
    labels = torch.tensor([0, 8, 3, 3, 5])

    def both(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return token_logprobs(h, weight, offset, labels, 0.7, entropy_gradient=True)

    assert torch.autograd.gradcheck(both, (hidden,))
    exact = ((hidden @ weight.T + (0.0 if offset is None else offset)) / 0.7).log_softmax(-1)
    torch.testing.assert_close(both(hidden)[1], -(exact.exp() * exact).sum(-1))
    assert not token_logprobs(hidden, weight, offset, labels, 0.7)[1].requires_grad
