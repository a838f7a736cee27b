"""Our side of a vLLM server: what is asked for, what is made of the answers, and what is said of failures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from vllm_server import Fake, Refusal, serving

from align.errors import AlignError, UserError
from align.models.batch import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe import Lora
from align.rollouts.engine import Terms
from align.rollouts.params import Sampled
from align.rollouts.vllm import Vllm

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 6, 7]]
ROWS = [4, 5, 6, 7]
TERMS = Terms(temperature=0.8, eos_id=1, pad_id=0, max_tokens=8, batch_tokens=1000, min_tokens=3)


@pytest.fixture
def fake(tiny_base: Path) -> Fake:
    return Fake(tiny_base)


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    with serving(fake) as address:
        yield address


@pytest.fixture
def roles(tiny_base: Path) -> Roles:
    model = AutoModelForCausalLM.from_pretrained(tiny_base).requires_grad_(False).eval()
    roles = Roles(model)
    for role in ("policy", "reference"):
        lora = lora_config(Lora(rank=4, alpha=8, targets=["q_proj", "v_proj"], layers=2), model)
        roles.add(role, lora, trains=role == "policy")
    move(roles)
    return roles


def move(roles: Roles) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy").values():
            parameter.add_(torch.randn_like(parameter) / 3)


def gap(roles: Roles, sampled: list[Sampled], terms: Terms = TERMS) -> float:
    """The largest difference to the trainer's log probabilities."""
    forward = Forward(roles, terms.eos_id, terms.min_tokens)
    batch = collate([(s.prompt, s.response) for s in sampled], pad_id=0)
    logprobs, _, _ = forward.logprobs("policy", forward.trunk(batch), terms.temperature)
    pairs = [
        (x, y) for i, s in enumerate(sampled) for x, y in zip(logprobs[i].tolist(), s.logprobs, strict=False)
    ]
    return max(abs(x - y) for x, y in pairs)


def test_the_server_samples_with_the_policy_of_now(
    roles: Roles, fake: Fake, url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    engine = Vllm(roles, TERMS, 3, f"{url}/v1/", folder)
    for iteration in (0, 1):
        engine.update()
        assert gap(roles, engine.sample(PROMPTS, ROWS, iteration)) < 1e-5
        assert len(fake.adapters) == len(list(folder.iterdir())) == 1
        move(roles)
    assert len(set(fake.loaded)) == 2
    fake.stale = True
    engine.update()
    assert gap(roles, engine.sample(PROMPTS, ROWS, 2)) > 0.01
    engine.close()
    assert not fake.adapters and not list(folder.iterdir())


def test_a_row_is_a_function_of_seed_iteration_and_row(
    roles: Roles, fake: Fake, url: str, tmp_path: Path
) -> None:
    engine = Vllm(roles, TERMS, 3, url, tmp_path / "engine")
    engine.update()
    sampled = engine.sample(PROMPTS, ROWS, 0)
    assert [s.prompt for s in sampled] == PROMPTS
    assert sampled[0].response != sampled[3].response  # one prompt, two rows
    assert engine.sample([PROMPTS[2]], [6], 0) == [sampled[2]]
    assert engine.sample([PROMPTS[2]], [6], 1) != [sampled[2]]
    other = Vllm(roles, TERMS, 4, url, tmp_path / "other")
    other.update()
    assert other.sample([PROMPTS[2]], [6], 0) != [sampled[2]]
    assert len({asked["seed"] for asked in fake.asked}) == len(PROMPTS) + 2


def test_responses_end_with_our_eos_and_not_too_early(
    roles: Roles, fake: Fake, url: str, tmp_path: Path
) -> None:
    first = Vllm(roles, TERMS, 3, url, tmp_path / "engine")
    first.update()
    eos = first.sample(PROMPTS, ROWS, 0)[0].response[4]
    terms = Terms(0.8, eos, 0, max_tokens=8, batch_tokens=1000, min_tokens=3)
    second = Vllm(roles, terms, 3, url, tmp_path / "second")
    second.update()
    sampled = second.sample(PROMPTS * 8, list(range(32)), 0)
    assert any(eos in s.response for s in sampled)
    for one in sampled:
        assert eos not in one.response[:3] and eos not in one.response[:-1]
        assert one.response[-1] == eos or len(one.response) == 8
    assert gap(roles, sampled, terms) < 1e-5


def test_what_a_killed_run_left_is_taken_away(roles: Roles, fake: Fake, url: str, tmp_path: Path) -> None:
    killed = Vllm(roles, TERMS, 3, url, tmp_path / "engine")
    killed.update()
    assert len(fake.adapters) == 1
    again = Vllm(roles, TERMS, 3, url, tmp_path / "engine")
    assert not fake.adapters and not (tmp_path / "engine").exists()
    again.update()
    fake.adapters.clear()  # the server was started anew
    again.close()


def test_no_server_is_told_at_once(roles: Roles, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no vLLM server answers at http://127\.0\.0\.1:9 .*docs/ppo\.md"):
        Vllm(roles, TERMS, 3, "http://127.0.0.1:9", tmp_path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"choices": [{"token_ids": None, "logprobs": None}]}, "without token ids or log probabilities"),
        ({"choices": []}, "without token ids or log probabilities"),
        ({"choices": [{"token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -1.0]}}]}, "end neither"),
        ({"choices": [{"token_ids": [5, 1], "logprobs": {"token_logprobs": [-1.0]}}]}, "2 tokens with 1 log"),
        ({"choices": [{"token_ids": [], "logprobs": {"token_logprobs": []}}]}, "0 tokens"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_is_refused(
    roles: Roles,
    fake: Fake,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, Any],
    said: str,
) -> None:
    engine = Vllm(roles, TERMS, 3, url, tmp_path / "engine")
    engine.update()
    monkeypatch.setattr(fake, "_complete", lambda _: answer)
    with pytest.raises(AlignError, match=said):
        engine.sample(PROMPTS, ROWS, 0)


def test_what_the_server_says_reaches_the_person(
    roles: Roles, fake: Fake, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Vllm(roles, TERMS, 3, url, tmp_path / "engine")
    engine.update()
    fake.adapters.clear()
    with pytest.raises(AlignError, match=r"completions answered 404: .*The model `align-\w+` does not exist"):
        engine.sample(PROMPTS, ROWS, 0)

    def refuse(**_: str) -> None:
        raise Refusal(404, "Not Found")

    monkeypatch.setattr(fake, "_load", refuse)
    with pytest.raises(AlignError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        engine.update()
    assert len(list((tmp_path / "engine").iterdir())) == 1
