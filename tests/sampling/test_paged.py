"""Continuous batching draws what `hf` draws: the same tokens for a row, whatever shares its pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stack import needs_paged
from tiny_bases import tiny_model
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

from align.errors import AlignError, UserError
from align.models.batch import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.sections import Lora
from align.sampling import paged
from align.sampling.paged import Paged, check_paged
from align.sampling.params import Draws, SamplingParams
from align.sampling.sampler import Hf, draw

pytestmark = needs_paged

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 6, 7], [14, 15]] * 2
ROWS = list(range(10))
PARAMS = SamplingParams(temperature=0.8, eos_id=1, pad_id=0, max_tokens=12, batch_tokens=1000)


def draws(step: int, rows: Sequence[int] = ROWS) -> Draws:
    return Draws(3, "test", step, rows)


@pytest.fixture
def roles(tiny_base: Path) -> Roles:
    """A policy that differs from its base, with another role beside it."""
    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    roles = Roles(model.requires_grad_(False).eval())
    for role in ("policy", "reference"):
        lora = lora_config(Lora(rank=4, alpha=8, targets=["q_proj", "v_proj"], layers=2), model)
        roles.add(role, lora, trains=role == "policy")
        move(roles, role)
    return roles


def move(roles: Roles, role: str) -> None:
    torch.manual_seed(len(role))
    with torch.no_grad():
        for parameter in roles.parameters_of(role).values():
            parameter.add_(torch.randn_like(parameter) / 3)


def test_a_row_gets_the_tokens_that_hf_draws_for_it(roles: Roles) -> None:
    expected = Hf(roles).sample(PROMPTS, draws(7), PARAMS)
    roles.activate("reference")
    found = Paged(roles).sample(PROMPTS, draws(7), PARAMS)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.prompt, mine.response) == (theirs.prompt, theirs.response)
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    few = [8, 1]
    alone = Paged(roles).sample([PROMPTS[i] for i in few], draws(7, few), PARAMS)
    assert [one.response for one in alone] == [expected[i].response for i in few]
    other = Paged(roles).sample(PROMPTS, draws(8), PARAMS)
    assert other[0].response != expected[0].response
    assert roles.base.config._attn_implementation == "eager"


def test_its_log_probabilities_are_the_trainers_also_after_an_update(roles: Roles) -> None:
    engine, forward = Paged(roles), Forward(roles)
    for iteration in (0, 1):
        sampled = engine.sample(PROMPTS, draws(iteration), PARAMS)
        batch = collate([(s.prompt, s.response) for s in sampled], pad_id=0)
        logprobs, _, _ = forward.logprobs("policy", forward.prefix(batch), PARAMS.temperature)
        for row, one in enumerate(sampled):
            assert logprobs[row, : len(one.response)].tolist() == pytest.approx(one.logprobs, abs=1e-5)
        move(roles, "policy")
        engine.update()


def test_it_ends_where_hf_ends_and_makes_room_where_the_cache_is_small(roles: Roles) -> None:
    free = Hf(roles).sample(PROMPTS, draws(7), PARAMS)
    eos = free[0].response[2]
    params = SamplingParams(0.8, eos, 0, max_tokens=40, batch_tokens=50, min_tokens=4)
    expected = Hf(roles).sample(PROMPTS, draws(7), params)
    found = Paged(roles).sample(PROMPTS, draws(7), params)  # one response may fill the cache alone
    assert [one.response for one in found] == [one.response for one in expected]
    assert not any(eos in one.response[:4] for one in found)
    lengths = [len(one.response) for one in found]
    assert max(lengths) == 40 and [len(one.logprobs) for one in found] == lengths


def test_what_the_library_would_drop_is_told(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(paged, "draw", broken)
    with pytest.raises(AlignError, match="paged could not sample: no such kernel; engine `hf`"):
        Paged(roles).sample(PROMPTS, draws(7), PARAMS)
    monkeypatch.undo()
    assert len(Paged(roles).sample(PROMPTS, draws(7), PARAMS)) == len(PROMPTS)


def test_log_probabilities_that_are_not_the_bases_own_are_refused(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, logprobs = draw(*given)
        return tokens, logprobs - 0.01

    monkeypatch.setattr(paged, "draw", other)
    with pytest.raises(UserError, match="its log probabilities are 0.01 from the base's own"):
        check_paged(roles)


def test_it_narrows_and_tells_tokens_as_hf_does_by_any_role(roles: Roles) -> None:
    narrow = replace(PARAMS, top_k=5, top_p=0.7, min_tokens=2)
    expected = Hf(roles).sample(PROMPTS, draws(7), narrow, "reference")
    found = Paged(roles).sample(PROMPTS, draws(7), narrow, "reference")
    assert [one.response for one in found] == [one.response for one in expected]
    assert found[0].logprobs == pytest.approx(expected[0].logprobs, abs=1e-5)
    told: list[int] = []
    (one,) = Paged(roles).sample(PROMPTS[:1], draws(7, [0]), narrow, "reference", told.append)
    assert told == one.response == expected[0].response
    assert Paged(roles).sample([], draws(7, []), PARAMS) == [] == Hf(roles).sample([], draws(7, []), PARAMS)


def test_a_base_that_it_reads_wrong_or_not_at_all_is_refused(roles: Roles) -> None:
    check_paged(roles)
    with pytest.raises(UserError, match="cannot sample from Lfm2ForCausalLM .*use engine hf"):
        check_paged(Roles(tiny_model("lfm2", 64)))
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)).eval()
    for parameter in bloom.requires_grad_(False).parameters():
        parameter.normal_(std=0.15)  # ALiBi's distances are lost in pages, which counts where attention does
    with pytest.raises(UserError, match="cannot sample from BloomForCausalLM .*use engine hf"):
        check_paged(Roles(bloom))
