"""Sampling: the right distribution, and nothing but (policy, prompt, number) decides a token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from align.data.batches import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe import Lora
from align.rollouts.hf import _draw, sample, uniforms

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18]]


@pytest.fixture
def roles(tiny_base: Path) -> Roles:
    model = AutoModelForCausalLM.from_pretrained(tiny_base).requires_grad_(False).eval()
    roles = Roles(model)
    roles.add("policy", lora_config(Lora(rank=4, alpha=8, targets=["q_proj"], layers=2), model), trains=True)
    return roles


def _sample(
    roles: Roles, prompts: list[list[int]], rows: list[int], eos_id: int = 1, batch_tokens: int = 1000
):
    draws = uniforms(3, "test", 0, rows, 12)
    return sample(
        roles, "policy", prompts, draws, temperature=1.0, eos_id=eos_id, pad_id=0, batch_tokens=batch_tokens
    )


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
    logprobs, _, _ = forward.logprobs("policy", forward.trunk(batch), 1.0)
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


def test_tokens_come_with_their_probabilities() -> None:
    p = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens, logprobs = _draw(p.log().float().expand(10_000, 4), u)
    assert torch.bincount(tokens, minlength=4).tolist() == pytest.approx([1000, 0, 6000, 3000], abs=1)
    torch.testing.assert_close(logprobs.exp().double(), p[tokens], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("u", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_range_give_possible_tokens(u: float) -> None:
    tokens, _ = _draw(torch.tensor([[-100.0, 0.0, 0.0, -100.0]]), torch.tensor([u], dtype=torch.float64))
    assert tokens.item() in (0, 1, 2)
