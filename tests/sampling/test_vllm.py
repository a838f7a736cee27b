"""Our side of a vLLM server: what is asked for, what is made of the answers, and what is said of failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from sampled_policy import PARAMS, PROMPTS, draws, gap, move, policy_on, vllm
from vllm_server import Fake, Refusal, serving

from align.errors import AlignError, UserError
from align.models.roles import Roles
from align.sampling.params import Draws
from align.sampling.sampler import Hf
from align.seeds import generator


@pytest.fixture
def fake(tiny_base: Path) -> Fake:
    return Fake(tiny_base)


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    with serving(fake) as address:
        yield address


@pytest.fixture
def roles(tiny_base: Path) -> Roles:
    return policy_on(tiny_base)


def test_the_server_samples_with_the_policy_of_now(
    roles: Roles, fake: Fake, url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    engine = vllm(roles, folder, f"{url}/v1/")
    for iteration in (0, 1):
        engine.update()
        assert gap(roles, engine.sample(PROMPTS, draws(iteration), PARAMS)) < 1e-5
        assert len(fake.adapters) == len(list(folder.iterdir())) == 1
        move(roles)
    assert len(set(fake.loaded)) == 2
    fake.stale = True
    engine.update()
    assert gap(roles, engine.sample(PROMPTS, draws(2), PARAMS)) > 0.01
    engine.close()
    assert not fake.adapters and not folder.exists()


def test_a_row_is_a_function_of_seed_iteration_and_row(
    roles: Roles, fake: Fake, url: str, tmp_path: Path
) -> None:
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    sampled = engine.sample(PROMPTS, draws(0), PARAMS)
    assert [s.prompt for s in sampled] == PROMPTS
    assert sampled[0].response != sampled[3].response  # one prompt, two rows
    assert engine.sample([PROMPTS[2]], draws(0, [6]), PARAMS) == [sampled[2]]
    assert engine.sample([PROMPTS[2]], draws(1, [6]), PARAMS) != [sampled[2]]
    for other in (replace(draws(0, [6]), seed=4), replace(draws(0, [6]), name="other")):
        assert engine.sample([PROMPTS[2]], other, PARAMS) != [sampled[2]]
    assert len({asked["seed"] for asked in fake.asked}) == len(PROMPTS) + 3
    named = Draws(3, "generate", "r/sft 1", [("key", 0)])
    engine.sample([PROMPTS[2]], named, PARAMS)
    assert fake.asked[-1]["seed"] == generator(3, "generate", "r/sft 1", "key", 0).initial_seed()
    assert engine.sample([], draws(0, []), PARAMS) == []


def test_responses_end_with_our_eos_and_not_too_early(
    roles: Roles, fake: Fake, url: str, tmp_path: Path
) -> None:
    first = vllm(roles, tmp_path / "engine", url)
    first.update()
    eos = first.sample(PROMPTS, draws(0), PARAMS)[0].response[4]
    params = replace(PARAMS, eos_id=eos)
    sampled = first.sample(PROMPTS * 8, draws(0, range(32)), params)
    assert any(eos in s.response for s in sampled)
    for one in sampled:
        assert eos not in one.response[:3] and eos not in one.response[:-1]
        assert one.response[-1] == eos or len(one.response) == 8
    assert gap(roles, sampled, params) < 1e-5


def test_a_frozen_role_is_handed_over_once_and_the_base_never(
    roles: Roles, fake: Fake, url: str, tmp_path: Path
) -> None:
    roles.share("plain", "base", trains=False)
    engine = vllm(roles, tmp_path / "engine", url)
    for iteration in range(2):
        engine.update()
        for role in ("reference", "plain", "policy"):
            assert gap(roles, engine.sample(PROMPTS, draws(iteration), PARAMS, role), role=role) < 1e-5
        assert len(fake.adapters) == 2
    assert len(fake.loaded) == 3  # the policy twice
    assert fake.asked[4]["model"] == str(fake.base)
    engine.close()
    assert not fake.adapters and fake.base.exists()


def test_top_k_and_top_p_and_what_is_heard(roles: Roles, fake: Fake, url: str, tmp_path: Path) -> None:
    engine = vllm(roles, tmp_path / "engine", url)
    greedy = replace(PARAMS, top_k=1)
    expected = Hf(roles).sample(PROMPTS, draws(0), greedy)
    assert [one.response for one in engine.sample(PROMPTS, draws(0), greedy)] == [
        one.response for one in expected
    ]
    told: list[int] = []
    (one,) = engine.sample(PROMPTS[:1], draws(0, [4]), replace(PARAMS, top_p=0.5), heard=told.append)
    assert told == one.response
    assert (fake.asked[-1]["top_k"], fake.asked[-1]["top_p"]) == (0, 0.5)


def test_connections_are_used_again(roles: Roles, fake: Fake, url: str, tmp_path: Path) -> None:
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    for iteration in range(3):
        engine.sample(PROMPTS, draws(iteration), PARAMS)
    assert len(fake.asked) == 3 * len(PROMPTS) and fake.connections <= len(PROMPTS)


def test_what_a_killed_run_left_is_taken_away(roles: Roles, fake: Fake, url: str, tmp_path: Path) -> None:
    killed = vllm(roles, tmp_path / "engine", url)
    killed.update()
    assert len(fake.adapters) == 1
    again = vllm(roles, tmp_path / "engine", url)
    assert not fake.adapters and not (tmp_path / "engine").exists()
    again.update()
    fake.adapters.clear()  # the server was started anew
    again.close()


def test_no_server_is_told_at_once(roles: Roles, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no vLLM server answers at http://127\.0\.0\.1:9 .*docs/vllm\.md"):
        vllm(roles, tmp_path, "http://127.0.0.1:9")


def test_a_proxy_is_not_asked_for_a_server(
    roles: Roles, fake: Fake, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters set it for the outside world; the error would be of the proxy's."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    assert gap(roles, engine.sample(PROMPTS, draws(0), PARAMS)) < 1e-5


@pytest.mark.parametrize(
    ("path", "code", "text", "said"),
    [
        (
            "/v1/models",
            200,
            "<html>Log in</html>",
            "answered '<html>Log in</html>', which names no base. Is it a",
        ),
        (
            "/v1/models",
            404,
            "<html>nginx</html>",
            "models answered 404: <html>nginx</html>. Is it a vLLM server",
        ),
        ("/health", 302, "", "health answered 302: . Is it a vLLM server"),
        ("/v1/models", 401, "Unauthorized", "It wants a key, and align sends none"),
    ],
)
def test_another_program_at_the_address_is_told_as_such(
    roles: Roles, tmp_path: Path, path: str, code: int, text: str, said: str
) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == path else 200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError) as caught:
            vllm(roles, tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"choices": [{"token_ids": None, "logprobs": None}]}, "without token ids or log probabilities"),
        ({"choices": []}, "without token ids or log probabilities"),
        ({"choices": [{"token_ids": [5, 6], "logprobs": {"token_logprobs": [-1.0, -1.0]}}]}, "end neither"),
        ({"choices": [{"token_ids": [5, 1], "logprobs": {"token_logprobs": [-1.0]}}]}, "2 tokens with 1 log"),
        ({"choices": [{"token_ids": [], "logprobs": {"token_logprobs": []}}]}, "0 tokens"),
        ({"choices": [{"token_ids": [5, 1], "logprobs": {"token_logprobs": [-1.0, None]}}]}, "not finite"),
        (
            {"choices": [{"token_ids": [999, 1], "logprobs": {"token_logprobs": [-1.0, -1.0]}}]},
            "a token that this base does not have",
        ),
        (
            {"choices": [{"token_ids": [-1, 1], "logprobs": {"token_logprobs": [-1.0, -1.0]}}]},
            "a token that this base does not have",
        ),
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
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()
    monkeypatch.setattr(fake, "_complete", lambda _: answer)
    with pytest.raises(AlignError, match=said):
        engine.sample(PROMPTS, draws(0), PARAMS)


def test_what_the_server_says_reaches_the_person(
    roles: Roles, fake: Fake, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = vllm(roles, tmp_path / "engine", url)
    engine.update()

    def refuse(_: Any) -> None:
        raise Refusal(400, "This model's maximum context length is 4 tokens.")

    monkeypatch.setattr(fake, "_complete", refuse)
    with pytest.raises(AlignError, match="completions answered 400: .*maximum context length is 4 tokens"):
        engine.sample(PROMPTS, draws(0), PARAMS)
