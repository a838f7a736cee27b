"""align serve: the reward model behind an address, as recipes and OpenRLHF ask it, and wrong requests."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, align, write_jsonl

from align.recipe.ppo import Reward
from align.rewards.external import Texts, scorer_of

PROMPTS = ["the film is", "a plot with", "the music"]
RESPONSES = [" good and bright", " no heart", " is loud and old and tired"]


@dataclass
class Served:
    """A server in a process of its own."""

    url: str
    run: Path

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, raw, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


def start(run: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "align", "serve", str(run), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"at (http://127\.0\.0\.1:\d+) on this machine only", line):
            return found[1]
    raise AssertionError("the server has ended")


@pytest.fixture(scope="module")
def served(finished_run: Path) -> Iterator[Served]:
    process = start(finished_run, "--port", "0")
    try:
        yield Served(address(process), finished_run)
    finally:
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "stopped" in told and "Traceback" not in told


@pytest.fixture(scope="module")
def scored(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What `align score` says."""
    rows = [{"prompt": p, "response": r} for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    done = align("score", finished_run, write_jsonl(tmp_path_factory.mktemp("s") / "in.jsonl", rows))
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["score"] for line in done.stdout.splitlines()]


def test_scores_are_those_of_align_score(served: Served, scored: list[float]) -> None:
    code, found = served.post("/v1/score", {"prompts": PROMPTS, "responses": RESPONSES})
    assert code == 200 and found["scores"] == pytest.approx(scored, abs=2e-6)
    one = served.post("/v1/score", {"prompts": PROMPTS[1:2], "responses": RESPONSES[1:2]})[1]
    assert one["scores"] == pytest.approx(scored[1:2], abs=2e-6)


def test_a_recipes_url_source_reads_it(served: Served, scored: list[float]) -> None:
    scorer, _ = scorer_of(Reward(url=f"{served.url}/v1/score"))
    assert scorer(Texts(PROMPTS, RESPONSES, [True] * 3)).tolist() == pytest.approx(scored, abs=1e-5)


def test_conversations_end_with_what_is_scored(served: Served, scored: list[float]) -> None:
    talks = [
        [{"role": "user", "content": p}, {"role": "assistant", "content": r}]
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    assert served.post("/v1/score", {"messages": talks})[1]["scores"] == pytest.approx(scored, abs=2e-6)
    assert served.post("/v1/score", {"messages": talks[0]})[1]["scores"] == pytest.approx(
        scored[:1], abs=2e-6
    )


def test_openrlhf_reads_it(served: Served, scored: list[float]) -> None:
    """Their client sends the decoded text with its special tokens, and reads `rewards` (utils/agent.py)."""
    queries = [f"{p}{r}<eos>" for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    code, found = served.post("/get_reward", {"query": queries, "prompts": PROMPTS, "labels": [None] * 3})
    assert code == 200 and found["rewards"] == pytest.approx(scored, abs=2e-6)
    assert found["scores"] == found["rewards"] and found["extra_logs"] == {}


def test_an_answer_that_was_cut_has_no_eos(served: Served, scored: list[float]) -> None:
    body = {"prompts": PROMPTS[:1], "responses": RESPONSES[:1], "ended": [False]}
    (cut,) = served.post("/v1/score", body)[1]["scores"]
    (query,) = served.post("/get_reward", {"query": [PROMPTS[0] + RESPONSES[0]]})[1]["rewards"]
    assert cut == pytest.approx(query, abs=2e-6) and abs(cut - scored[0]) > 1e-4


def test_an_empty_answer_and_one_with_eos_as_text_are_scored(served: Served) -> None:
    """A policy in training may write both, and a refusal would end its run."""
    body = {"prompts": PROMPTS[:1] * 3, "responses": ["", "<eos> more", " good<eos>"]}
    code, found = served.post("/v1/score", body)
    assert code == 200 and found["scores"][0] == found["scores"][1] != found["scores"][2]


def test_no_texts_have_no_scores(served: Served) -> None:
    assert served.post("/v1/score", {"prompts": [], "responses": []})[1]["scores"] == []
    assert served.post("/get_reward", {"query": []})[1]["rewards"] == []


def test_requests_at_the_same_time_get_their_own_scores(served: Served, scored: list[float]) -> None:
    def ask(i: int) -> list[float]:
        return served.post("/v1/score", {"prompts": [PROMPTS[i % 3]], "responses": [RESPONSES[i % 3]]})[1][
            "scores"
        ]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(24)))
    assert [one[0] for one in found] == pytest.approx([scored[i % 3] for i in range(24)], abs=2e-6)


@pytest.mark.parametrize(
    ("path", "body", "code", "says"),
    [
        ("/v1/score", b"nonsense", 400, "the body is no JSON"),
        ("/v1/score", b"[" * 100_000, 400, "the body is no JSON"),
        ("/v1/score", b"\xff\xfe", 400, "the body is no JSON"),
        ("/v1/score", [], 400, "must be a JSON object"),
        ("/v1/score", {"prompts": ["a"]}, 400, "must be lists"),
        ("/v1/score", {"prompts": ["a"], "responses": []}, 400, "1 prompts and 0 responses"),
        ("/v1/score", {"prompts": [3], "responses": ["b"]}, 400, "request 0: `prompt`"),
        ("/v1/score", {"prompts": ["a"], "responses": [None]}, 400, "request 0: the response must be text"),
        ("/v1/score", {"prompts": ["a"], "responses": ["b " * 400]}, 400, "request 0: .*reads at most 256"),
        ("/v1/score", {"prompts": ["a"], "responses": ["b"], "ended": "yes"}, 400, "`ended`"),
        ("/v1/score", {"prompts": ["a"] * 5000, "responses": ["b"] * 5000}, 413, "4096 is the most"),
        ("/v1/score", b'"' + b"x" * (16 * 2**20), 413, "more than 16 MiB"),
        ("/v1/score", {"messages": [{"role": "user", "content": "a"}]}, 400, "must end with the assistant"),
        (
            "/v1/score",
            {"prompts": ["a"], "responses": ["\ud800"]},
            400,
            "request 0: .*half of a surrogate pair",
        ),
        ("/get_reward", {"query": ["b \ud800"]}, 400, r"query\[0\].*half of a surrogate pair"),
        ("/v1/score", {"messages": "a"}, 400, "must be a conversation"),
        ("/v1/score", {"messages": [[3, {"role": "assistant", "content": "b"}]]}, 400, "request 0"),
        ("/get_reward", {"prompts": ["a"]}, 400, "`query` must be a list of texts"),
        ("/get_reward", {"query": ["b " * 400]}, 400, r"query\[0\]: .*reads at most 256"),
        ("/other", {}, 404, "POST /v1/score"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    served: Served, path: str, body: Any, code: int, says: str
) -> None:
    found, told = served.post(path, body)
    assert found == code and re.search(says, told["error"]), told
    assert "Traceback" not in told["error"]


def test_another_host_is_refused(served: Served) -> None:
    request = urllib.request.Request(f"{served.url}/health", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=30)


def test_a_port_that_is_taken_is_said(finished_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = align("serve", finished_run, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2 and "Choose another --port" in done.stderr


def test_a_run_without_a_reward_model_is_said(tmp_path: Path) -> None:
    done = align("serve", tmp_path, "--port", "0")
    assert done.returncode == 2 and "not a run's folder" in done.stderr


def test_sigterm_ends_it_too(finished_run: Path) -> None:
    process = start(finished_run, "--port", "0")
    address(process)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "stopped" in told and "Traceback" not in told
