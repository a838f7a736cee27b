"""Several vLLM servers: who answers what, what happens when one dies, and servers that sleep."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import make_tiny_base
from sampled_policy import PARAMS, PROMPTS, draws, gap, move, policy_on, vllm
from vllm_server import Fake, serving

from align.errors import AlignError, UserError
from align.models.roles import Roles
from align.sampling import servers
from align.sampling.params import Sampled


@pytest.fixture
def roles(tiny_base: Path) -> Roles:
    return policy_on(tiny_base)


@pytest.fixture
def fakes(tiny_base: Path) -> list[Fake]:
    return [Fake(tiny_base), Fake(tiny_base)]


@pytest.fixture
def urls(fakes: list[Fake]) -> Iterator[list[str]]:
    with ExitStack() as held:
        yield [held.enter_context(serving(fake)) for fake in fakes]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "WAITS", (0.05,) * 6)


@pytest.fixture
def expected(roles: Roles, tiny_base: Path, tmp_path: Path) -> list[Sampled]:
    """What one server samples of the policy as it begins."""
    with serving(Fake(tiny_base)) as url:
        engine = vllm(roles, tmp_path / "alone", url)
        engine.update()
        sampled = engine.sample(PROMPTS, draws(0), PARAMS)
        engine.close()
    return sampled


def test_two_servers_share_rows_and_sample_what_one_does(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, expected: list[Sampled]
) -> None:
    engine = vllm(roles, tmp_path / "engine", *urls)
    engine.update()
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected
    assert [sorted(one["prompt"] for one in fake.asked) for fake in fakes] == [
        sorted(PROMPTS[:2]),
        sorted(PROMPTS[2:]),
    ]
    assert len(list((tmp_path / "engine").iterdir())) == 1 and fakes[0].loaded == fakes[1].loaded
    engine.close()
    assert not fakes[0].adapters and not fakes[1].adapters


def test_a_server_that_is_not_there_at_the_start_is_told_and_the_others_go_on(
    roles: Roles, urls: list[str], tmp_path: Path, expected: list[Sampled], told: list[str]
) -> None:
    nobody = "http://127.0.0.1:9"
    engine = vllm(roles, tmp_path / "engine", nobody, urls[1], told=told)
    (line,) = told
    assert line.startswith(f"warning: engine vllm: no vLLM server answers at {nobody}")
    assert line.endswith("The others go on")
    engine.update()
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected and len(told) == 1
    with pytest.raises(UserError, match="at http://127.0.0.1:9 .*\n.*at http://127.0.0.1:8 "):
        vllm(roles, tmp_path / "engine", nobody, "http://127.0.0.1:8")


def test_rows_of_a_server_that_dies_go_to_the_other_and_it_is_taken_back(
    roles: Roles,
    fakes: list[Fake],
    urls: list[str],
    tmp_path: Path,
    expected: list[Sampled],
    told: list[str],
) -> None:
    engine = vllm(roles, tmp_path / "engine", *urls, told=told)
    engine.update()
    engine.sample(PROMPTS, draws(0), PARAMS, "reference")
    fakes[0].left = 1  # of the two rows that it is asked
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected
    (line,) = told
    assert line.startswith(f"warning: engine vllm: {urls[0]} is gone (/v1/completions answered 500")
    assert line.endswith("the others go on")

    move(roles)
    engine.update()
    assert gap(roles, engine.sample(PROMPTS, draws(1), PARAMS)) < 1e-5 and len(told) == 1
    fakes[0].start_anew()
    engine.update()
    assert told[1:] == [f"engine vllm: {urls[0]} is back"]
    assert fakes[0].adapters.keys() == fakes[1].adapters.keys() and len(fakes[0].adapters) == 2
    fakes[1].left = 0
    assert gap(roles, engine.sample(PROMPTS, draws(2), PARAMS, "reference"), role="reference") < 1e-5
    assert gap(roles, engine.sample(PROMPTS, draws(2), PARAMS)) < 1e-5


def test_a_server_that_is_gone_for_good_ends_the_run_only_where_it_is_the_last(
    roles: Roles, fakes: list[Fake], tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_IDLE", 0.0)  # the stand-in's threads go on with open connections
    with serving(fakes[0]) as first:
        with serving(fakes[1]) as second:
            engine = vllm(roles, tmp_path / "engine", first, second, told=told)
            engine.update()
            engine.sample(PROMPTS, draws(0), PARAMS)
        engine.update()  # nobody listens any more
        assert len(engine.sample(PROMPTS, draws(1), PARAMS)) == 4
        assert second in told[0]
        fakes[0].left = 2
        with pytest.raises(AlignError) as failed:
            engine.sample(PROMPTS, draws(1), PARAMS)
    said = str(failed.value)
    assert "no server answers any more" in said and said.count("docs/vllm.md") == 1
    assert first in said and second in said and "the same command goes on from it" in said
    assert failed.value.exit_code == 1 and len(told) == 2
    engine.close()
    assert not (tmp_path / "engine").exists()


def test_a_server_that_is_killed_in_the_middle_and_comes_back_costs_no_row(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, expected: list[Sampled], told: list[str]
) -> None:
    engine = vllm(roles, tmp_path / "engine", urls[0], told=told)
    engine.update()
    fakes[0].left = 2

    def restart() -> None:
        time.sleep(0.1)
        fakes[0].start_anew()

    thread = threading.Thread(target=restart)
    thread.start()
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected
    thread.join()
    assert "it is looked for ten minutes long" in told[0] and told[1].endswith("is back")
    assert fakes[0].loaded[-1] == fakes[0].loaded[-2]  # by its name of before


def test_a_server_that_was_started_anew_meanwhile_gets_the_adapters_again(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, expected: list[Sampled], told: list[str]
) -> None:
    engine = vllm(roles, tmp_path / "engine", urls[0], told=told)
    engine.update()
    fakes[0].start_anew()
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected
    assert "it does not know align-" in told[0] and told[1].endswith("is back")


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/completions", "/v1/models"])
@pytest.mark.parametrize("how", ["gateway", "cut"])
def test_a_gateway_s_502_and_half_an_answer_cost_no_row(
    roles: Roles,
    fakes: list[Fake],
    urls: list[str],
    tmp_path: Path,
    expected: list[Sampled],
    told: list[str],
    path: str,
    how: str,
) -> None:
    """Of the handing over, of a response, and of the questions that are asked when it is looked for."""
    engine = vllm(roles, tmp_path / "engine", urls[0], told=told)
    if path == "/v1/models":
        engine.update()
        fakes[0].start_anew()  # which is noticed, and then it is looked for
    getattr(fakes[0], how).append(path)
    if path != "/v1/models":
        engine.update()
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected
    assert not getattr(fakes[0], how)
    if (path, how) == ("/v1/load_lora_adapter", "cut"):  # nothing of what it says there is read
        assert not told
    else:
        assert told[-1].endswith("is back")


def test_a_server_whose_engine_hangs_is_not_taken_back_while_it_does(
    roles: Roles,
    fakes: list[Fake],
    urls: list[str],
    tmp_path: Path,
    expected: list[Sampled],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its HTTP process answers that all is well: each rollout would wait for it anew."""
    for name, seconds in {"_SECONDS": 4.0, "_PROOF": 0.2, "_SILENCE": 0.1}.items():
        monkeypatch.setattr(servers, name, seconds)
    engine = vllm(roles, tmp_path / "engine", *urls, told=told)
    engine.update()
    for fake in fakes:
        fake.hangs.set()
    with pytest.raises(AlignError, match="no server answers any more.*completions was not answered within"):
        engine.sample(PROMPTS, draws(0), PARAMS)
    assert told[0].startswith(f"engine vllm: no response from {urls[0]}, {urls[1]} for 0.1 seconds")
    assert sum("is gone (/v1/completions was not answered within 4 seconds)" in line for line in told) == 2
    assert not any("is back" in line for line in told)
    fakes[1].hangs.clear()
    engine.update()
    assert told[-1] == f"engine vllm: {urls[1]} is back"
    start, count = time.monotonic(), len(told)
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected
    assert time.monotonic() - start < 4 and len(told) == count


def test_ctrl_c_waits_for_no_server_that_hangs(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, told: list[str]
) -> None:
    engine = vllm(roles, tmp_path / "engine", urls[0], told=told)
    engine.update()
    fakes[0].hangs.set()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.sample(PROMPTS, draws(0), PARAMS)
    engine.close()
    assert time.monotonic() - start < 10 and not told
    assert not fakes[0].adapters and not (tmp_path / "engine").exists()


def test_servers_are_greeted_before_they_are_needed(
    fakes: list[Fake], urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert servers.check_there(urls) == []
    assert not fakes[0].loaded and not fakes[0].asked
    nobody = "http://127.0.0.1:9"
    (line,) = servers.check_there([urls[0], nobody])
    assert f"no vLLM server answers at {nobody}" in line
    _plain(fakes[0])
    with pytest.raises(UserError) as caught:
        servers.check_there([urls[0], nobody, urls[1]])
    said = str(caught.value).splitlines()
    assert len(said) == 2 and f"{urls[0]} takes no adapters: start it with --enable-lora" in said[0]
    assert f"no vLLM server answers at {nobody}" in said[1]
    monkeypatch.setattr(servers, "_GLANCE", 0.2)
    silence = pytest.raises(UserError, match="/health was not answered within 0.2 seconds")
    with socket.create_server(("127.0.0.1", 0)) as silent, silence:
        servers.check_there([f"http://127.0.0.1:{silent.getsockname()[1]}"])


def test_another_base_after_a_restart_is_refused_by_name(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, tiny_base: Path, told: list[str]
) -> None:
    make_tiny_base(tmp_path / "other", seed=1)
    engine = vllm(roles, tmp_path / "engine", *urls, told=told)
    engine.update()
    fakes[0].start_anew(tmp_path / "other")
    assert gap(roles, engine.sample(PROMPTS, draws(0), PARAMS)) < 1e-5
    engine.update()
    assert f"{urls[0]} was started anew with another base: it has {tmp_path / 'other'}" in told[1]
    engine.update()
    assert len(told) == 2 and not fakes[0].adapters  # told once, and not asked again
    fakes[1].left = 0
    with pytest.raises(UserError, match=f"before it had {tiny_base}"):
        engine.sample(PROMPTS, draws(0), PARAMS)


def _low(fake: Fake) -> None:
    fake.max_lora_rank = 2


def _plain(fake: Fake) -> None:
    fake.takes_adapters = False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_low, r"lower rank than lora.rank \(4\): start it with --max-lora-rank 8"),
        (_plain, "--enable-lora and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    ],
)
def test_a_server_that_takes_no_such_adapter_is_told_what_to_do(
    roles: Roles,
    fakes: list[Fake],
    urls: list[str],
    tmp_path: Path,
    change: Callable[[Fake], None],
    said: str,
) -> None:
    engine = vllm(roles, tmp_path / "engine", *urls)
    change(fakes[1])
    with pytest.raises(UserError, match=f"{urls[1]} takes.*{said}"):
        engine.update()
    assert not fakes[0].adapters and not list((tmp_path / "engine").iterdir())
    change(fakes[0])
    fakes[1].start_anew()
    with pytest.raises(UserError, match=said):  # a restart with other options is noticed as well
        engine.update()


def test_a_server_that_does_not_see_the_folder_is_told_so(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = vllm(roles, tmp_path / "engine", urls[0])
    monkeypatch.setattr("vllm_server.Path.is_dir", lambda _: False)
    with pytest.raises(UserError, match=rf"does not see {tmp_path}/engine/align-\w+: .* that both have"):
        engine.update()


def test_sleeping_servers_are_woken_to_sample_and_sleep_again(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, expected: list[Sampled]
) -> None:
    for fake in fakes:
        fake.can_sleep = True
    fakes[1].asleep = True  # as a killed run left it
    engine = vllm(roles, tmp_path / "engine", *urls, sleep=True)
    engine.update()
    assert engine.sample(PROMPTS, draws(0), PARAMS) == expected
    assert fakes[0].asleep and fakes[1].asleep
    engine.sample(PROMPTS, draws(0), PARAMS, "reference")
    engine.update()
    assert not fakes[0].asleep
    engine.sample([], draws(0, []), PARAMS)
    assert fakes[0].told == ["sleep", "wake", "sleep", "wake", "sleep"]
    assert fakes[1].told == ["wake", *fakes[0].told]


def test_a_server_that_a_killed_run_left_asleep_is_woken(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path
) -> None:
    fakes[0].can_sleep = fakes[0].asleep = True
    engine = vllm(roles, tmp_path / "engine", urls[0])
    engine.update()
    assert len(engine.sample(PROMPTS, draws(0), PARAMS)) == 4 and fakes[0].told == ["wake"]


@pytest.mark.parametrize(
    ("able", "said"),
    [(None, "has no /sleep and /wake_up"), (False, "would keep its memory while it sleeps")],
)
def test_a_server_that_cannot_sleep_is_told_at_the_start(
    roles: Roles, fakes: list[Fake], urls: list[str], tmp_path: Path, able: bool | None, said: str
) -> None:
    fakes[0].can_sleep, fakes[1].can_sleep = True, able
    with pytest.raises(UserError, match=f"{urls[1]} {said}.*VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode"):
        vllm(roles, tmp_path / "engine", *urls, sleep=True)
