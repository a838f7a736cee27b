"""What a real vLLM server samples, refuses and survives (`make vllm`): the stand-in's claims, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_recipe, make_tiny_base
from real_vllm import MAX_RANK, PROGRAM, RealServer
from rich.console import Console
from sampled_policy import PARAMS, PROMPTS, draws, gap, move, policy_on, vllm

from align.compare.run import evaluate
from align.errors import UserError
from align.loop.policy import Drawing, open_partner
from align.models.roles import Roles
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.sampling import servers
from align.sampling.sampler import Hf
from align.sampling.servers import Server
from align.stages import rm, sft

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not there (make vllm)"),
]
CLOSE = 1e-4  # nats a token: float32 on both sides
FAR = 0.01


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with heads of the least width that vLLM's attention knows."""
    folder = tmp_path_factory.mktemp("bases") / "wide"
    make_tiny_base(folder, head_dim=32)
    return folder


@pytest.fixture(scope="module")
def both(wide_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealServer]]:
    """Two servers; the second is killed now and then."""
    logs = tmp_path_factory.mktemp("logs")
    found = [RealServer(wide_base, logs / f"{i}.txt") for i in range(2)]
    try:
        for server in found:  # one after the other: both want all cores
            server.start()
            server.ready()
        yield found
    finally:
        for server in found:
            server.kill()


@pytest.fixture(scope="module")
def url(both: list[RealServer]) -> str:
    return both[0].url


@pytest.fixture
def roles(wide_base: Path) -> Roles:
    return policy_on(wide_base)


@pytest.mark.parametrize("layers", [2, None])
def test_it_samples_with_the_policy_of_now(
    url: str, wide_base: Path, tmp_path: Path, layers: int | None
) -> None:
    roles = policy_on(wide_base, layers=layers)
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    before = engine.sample(PROMPTS, draws(0), PARAMS)
    assert gap(roles, before) < CLOSE
    assert before[0].response != before[3].response  # one prompt, two rows
    assert engine.sample(PROMPTS, draws(0), PARAMS) == before
    move(roles)
    assert gap(roles, engine.sample(PROMPTS, draws(0), PARAMS)) > FAR  # of the adapter before
    engine.update()
    after = engine.sample(PROMPTS, draws(0), PARAMS)
    assert gap(roles, after) < CLOSE < FAR < gap(roles, after, role="reference")
    engine.close()


def test_a_wrong_adapter_is_noticed(url: str, roles: Roles, tmp_path: Path) -> None:
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    roles.share("plain", "base", trains=False)
    for role in ("reference", "plain"):
        assert gap(roles, engine.sample(PROMPTS, draws(1), PARAMS, role), role=role) < CLOSE
        assert gap(roles, engine.sample(PROMPTS, draws(1), PARAMS, role)) > FAR
    engine.close()


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.5])
def test_temperatures_and_ends(url: str, roles: Roles, tmp_path: Path, temperature: float) -> None:
    """A token that some response has is made the EOS."""
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    free = replace(PARAMS, temperature=temperature, min_tokens=0)
    eos = engine.sample(PROMPTS, draws(0), free)[0].response[2]
    params = replace(free, eos_id=eos)
    sampled = engine.sample(PROMPTS * 4, draws(0, range(16)), params)
    assert gap(roles, sampled, params) < CLOSE
    assert any(eos in one.response for one in sampled)
    for one in sampled:
        assert eos not in one.response[:-1] and (one.response[-1] == eos or len(one.response) == 8)
    engine.close()


@pytest.mark.parametrize("min_tokens", [1, 5, 7])
def test_the_end_is_barred_from_the_first_tokens(
    url: str, roles: Roles, tmp_path: Path, min_tokens: int
) -> None:
    """EOS has about a 320th: without the bar the numbers of the first tokens would be 0.003 apart."""
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    params = replace(PARAMS, min_tokens=min_tokens)
    sampled = engine.sample(PROMPTS * 4, draws(0, range(16)), params)
    assert gap(roles, sampled, params) < CLOSE < gap(roles, sampled, replace(params, min_tokens=0))
    assert not any(params.eos_id in one.response[:min_tokens] for one in sampled)
    engine.close()


def test_greedy_responses_are_those_of_our_own_engine(url: str, roles: Roles, tmp_path: Path) -> None:
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    greedy = replace(PARAMS, top_k=1)
    found, expected = (one.sample(PROMPTS, draws(0), greedy) for one in (engine, Hf(roles)))
    assert [one.response for one in found] == [one.response for one in expected]
    engine.close()


def test_a_rank_that_is_too_high_is_refused_with_the_one_to_give(
    url: str, wide_base: Path, tmp_path: Path
) -> None:
    engine = vllm(policy_on(wide_base, rank=12), tmp_path / "engine", url)
    with pytest.raises(UserError, match=r"lora.rank \(12\): start it with --max-lora-rank 16"):
        engine.update()
    assert MAX_RANK < 12 and 16 in servers.RANKS
    engine.close()


def test_an_adapter_that_it_does_not_see_is_told(
    url: str, roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.sampling.vllm.save_adapter", lambda *_: None)
    engine = vllm(roles, tmp_path / "engine", url)
    with pytest.raises(UserError, match="does not see .*server and trainer need the run folder"):
        engine.update()
    engine.close()


def test_it_sleeps_and_wakes_up(
    url: str, roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU no memory comes back, and vLLM says so."""
    with pytest.raises(UserError, match="would keep its memory while it sleeps"):
        vllm(roles, tmp_path / "engine", url, sleep=True)
    monkeypatch.setattr(Server, "check_sleep", lambda _: None)
    engine = vllm(roles, tmp_path / "engine", url, sleep=True)
    other = Server(url)
    engine.update()
    first = engine.sample(PROMPTS, draws(0), PARAMS)
    assert other.asleep() is True
    assert engine.sample(PROMPTS, draws(0), PARAMS) == first
    move(roles)
    engine.update()
    assert other.asleep() is False
    assert gap(roles, engine.sample(PROMPTS, draws(1), PARAMS)) < CLOSE
    engine.close()
    awake = vllm(roles, tmp_path / "engine", url)  # it was left asleep
    awake.update()
    assert gap(roles, awake.sample(PROMPTS, draws(1), PARAMS)) < CLOSE
    awake.close()


def test_ppo_trains_through_it_and_its_policy_answers(
    both: list[RealServer], wide_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"iterations": 2, "evaluate_every": 1, "engine": "vllm", "responses_per_prompt": 2}
    urls = [one.url for one in both]
    recipe = load_recipe(make_recipe(tmp_path, wide_base, ppo=fields | {"engine_url": urls, "warmup": 0.0}))
    for stage in (sft, rm, ppo):
        stage.run(recipe)
    rows = [json.loads(line) for line in (recipe.run.path / "ppo/metrics.jsonl").open()]
    gaps = [row["engine/logprob_gap"] for row in rows if "engine/logprob_gap" in row]
    assert len(gaps) == 2 and max(gaps) < CLOSE
    assert "gone" not in capsys.readouterr().err
    drawing = Drawing(top_k=1, engine="vllm", engine_url=urls[:1])
    there = open_partner(recipe.run.path, "ppo", drawing)
    here = open_partner(recipe.run.path, "ppo", Drawing(top_k=1))
    asked = [{"role": "user", "content": "the film is"}]
    assert there.answer(asked, 0) == here.answer(asked, 0)
    there.policy.engine.close()
    close = recipe.model_copy(update={"ppo": recipe.ppo.model_copy(update={"engine_gap_stop": CLOSE})})
    found = evaluate(close, console=Console(quiet=True), drawing=Drawing(engine="vllm", engine_url=urls))
    assert list(found["policies"]) == ["base", "sft", "ppo"]  # none beyond the bound, or it had raised


def test_a_server_that_is_killed_in_the_middle_costs_no_row(
    both: list[RealServer], roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one answers its rows; then it is alone, is killed, and comes back after some time."""
    first, second = both
    alone = vllm(roles, tmp_path / "alone", first.url)
    alone.update()
    prompts, rows = PROMPTS * 4, draws(0, range(16))
    expected = alone.sample(prompts, rows, PARAMS)
    alone.close()
    told: list[str] = []
    engine = vllm(roles, tmp_path / "engine", first.url, second.url, told=told)
    engine.update()
    assert engine.sample(prompts, rows, PARAMS) == expected and not told
    complete, asked = Server.complete, []

    def killed(server: Server, body: dict[str, object]) -> object:
        if server.url == second.url:
            asked.append(body)
            if len(asked) == 5:
                second.kill()
        return complete(server, body)

    monkeypatch.setattr(Server, "complete", killed)
    assert engine.sample(prompts, rows, PARAMS) == expected
    assert len(asked) >= 5 and len(told) == 1 and f"{second.url} is gone" in told[0]
    engine.close()

    second.start()
    second.ready()
    lonely = vllm(roles, tmp_path / "lonely", second.url, told=told)
    lonely.update()
    second.kill()
    second.start()
    assert lonely.sample(prompts, rows, PARAMS) == expected
    assert told[2:] == [f"engine vllm: {second.url} is back"]
    lonely.close()
