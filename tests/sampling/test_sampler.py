"""Sampling: the right distribution, and nothing but (policy, prompt, number) decides a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from align.models.batch import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.sections import Lora
from align.sampling.params import Draws, Sampled, SamplingParams
from align.sampling.sampler import Hf, draw

PLAIN = SamplingParams(1.0, 1, 0, max_tokens=12, batch_tokens=1000)
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18]]


@pytest.fixture
def roles(tiny_base: Path) -> Roles:
    model = AutoModelForCausalLM.from_pretrained(tiny_base).requires_grad_(False).eval()
    roles = Roles(model)
    roles.add("policy", lora_config(Lora(rank=4, alpha=8, targets=["q_proj"], layers=2), model), trains=True)
    roles.prove_logits()  # by passes of its own, which no test counts
    return roles


def _sample(
    roles: Roles,
    prompts: list[list[int]],
    rows: list[int],
    eos_id: int = 1,
    batch_tokens: int = 1000,
    min_tokens: int = 0,
) -> list[Sampled]:
    params = replace(PLAIN, eos_id=eos_id, batch_tokens=batch_tokens, min_tokens=min_tokens)
    return Hf(roles).sample(prompts, Draws(3, "test", 0, rows), params)


def test_a_row_does_not_depend_on_its_batch(roles: Roles) -> None:
    together = _sample(roles, PROMPTS, [0, 1, 2, 3, 4])
    for row, prompt in enumerate(PROMPTS):
        (alone,) = _sample(roles, [prompt], [row])
        assert alone.response == together[row].response
        assert alone.logprobs == pytest.approx(together[row].logprobs, abs=1e-5)
    assert [s.response for s in _sample(roles, PROMPTS, [0, 1, 2, 3, 4], batch_tokens=35)] == [
        s.response for s in together
    ]


def test_other_rows_draw_other_responses(roles: Roles) -> None:
    same_prompt = _sample(roles, [[5, 6, 7]] * 4, [0, 1, 2, 3])
    assert len({tuple(s.response) for s in same_prompt}) == 4


def test_sampling_and_training_agree_on_log_probabilities(roles: Roles) -> None:
    sampled = _sample(roles, PROMPTS, [0, 1, 2, 3, 4])
    forward = Forward(roles)
    batch = collate([(s.prompt, s.response) for s in sampled], pad_id=0)
    logprobs, _, _ = forward.logprobs("policy", forward.prefix(batch), 1.0)
    for row, one in enumerate(sampled):
        assert logprobs[row, : len(one.response)].tolist() == pytest.approx(one.logprobs, abs=1e-5)


def test_a_response_ends_with_eos_or_at_the_limit(roles: Roles) -> None:
    first = _sample(roles, PROMPTS, [0, 1, 2, 3, 4])
    eos = first[0].response[2]  # whatever row 0 says third shall end a response
    ended = _sample(roles, PROMPTS, [0, 1, 2, 3, 4], eos_id=eos)
    for old, new in zip(first, ended, strict=True):
        stop = old.response.index(eos) + 1 if eos in old.response else len(old.response)
        assert new.response == old.response[:stop]
        assert len(new.logprobs) == len(new.response)


def test_no_response_ends_before_the_minimum_and_the_trainer_knows(roles: Roles) -> None:
    rows = list(range(len(PROMPTS) * 4))
    prompts = [PROMPTS[row % len(PROMPTS)] for row in rows]
    free = _sample(roles, prompts, rows)
    eos = max(
        set(sum((s.response[:5] for s in free), [])), key=lambda t: sum(t in s.response[:5] for s in free)
    )
    held = _sample(roles, prompts, rows, eos_id=eos, min_tokens=5)
    assert any(eos in s.response[:5] for s in free) and any(eos in s.response for s in held)
    assert not any(eos in s.response[:5] for s in held)
    batch = collate([(s.prompt, s.response) for s in held], pad_id=0)
    forward = Forward(roles, eos, 5)
    logprobs, _, _ = forward.logprobs("policy", forward.prefix(batch), 1.0)
    unaware = Forward(roles)
    free_logprobs, _, _ = unaware.logprobs("policy", unaware.prefix(batch), 1.0)
    for row, one in enumerate(held):
        count = len(one.response)
        assert logprobs[row, :count].tolist() == pytest.approx(one.logprobs, abs=1e-5)
        assert (free_logprobs[row, : min(count, 5)] < logprobs[row, : min(count, 5)] - 1e-4).all()


def test_tokens_come_with_their_probabilities() -> None:
    p = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens, logprobs = draw(p.log().float().expand(10_000, 4), u, 0, PLAIN)
    assert torch.bincount(tokens, minlength=4).tolist() == pytest.approx([1000, 0, 6000, 3000], abs=1)
    torch.testing.assert_close(logprobs.exp().double(), p[tokens], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("u", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_range_give_possible_tokens(u: float) -> None:
    logits = torch.tensor([[-100.0, 0.0, 0.0, -100.0]])
    tokens, _ = draw(logits, torch.tensor([u], dtype=torch.float64), 0, PLAIN)
    assert tokens.item() in (0, 1, 2)


def test_responses_to_one_prompt_share_its_pass(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    decoder = roles.decoder
    monkeypatch.setattr(decoder, "forward", _counting(decoder.forward, read))
    rows = list(range(7))
    prompts = [[5, 6, 7]] * 4 + [[8, 9]] + [[5, 6, 7]] * 2
    together = _sample(roles, prompts, rows)
    assert read[0] == 3 * 3  # two neighbourhoods of one prompt, and one prompt alone
    assert len({tuple(s.response) for s in together}) == 7
    for row in rows:
        (alone,) = _sample(roles, [prompts[row]], [row])
        assert alone.response == together[row].response
        assert alone.prompt == together[row].prompt == prompts[row]
        assert alone.logprobs == pytest.approx(together[row].logprobs, abs=1e-5)
    read.clear()
    few = _sample(roles, prompts, rows, batch_tokens=2 * (3 + 12))
    assert [s.response for s in few] == [s.response for s in together]
    assert max(read) <= 2 * 3


def _counting(forward: Callable[..., Any], read: list[int]) -> Callable[..., Any]:
    """The decoder's forward pass, which notes how many tokens each call has."""

    def counted(**inputs: Any) -> Any:
        read.append(inputs["input_ids"].numel())
        return forward(**inputs)

    return counted
