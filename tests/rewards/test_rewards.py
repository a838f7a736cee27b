"""Sources of rewards: what they say reaches the score, and what they do wrong is told in one line."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import align, make_recipe, make_tiny_base

from align.errors import AlignError, UserError
from align.ppo.roles import prepare
from align.recipe.load import load_recipe
from align.rewards import service as service_module
from align.rewards.external import Service, Texts, by_function
from align.rewards.rewards import find_sources
from align.stages import rm, sft
from align.stages.frame import set_up

TEXTS = Texts(["a film", ({"role": "user", "content": "the story"},)], ["is good", ""], [True, False])
ASKED = ["a film", [{"role": "user", "content": "the story"}]]


def _says(value: Any) -> Callable[..., Any]:
    return lambda prompts, responses: value


@pytest.mark.parametrize(
    "given",
    [[1, 2.5], (1, 2.5), np.array([1, 2.5]), torch.tensor([1, 2.5]), [np.float32(1), torch.tensor(2.5)]],
    ids=["list", "tuple", "array", "tensor", "scalars"],
)
def test_numbers_of_any_kind_are_scores(given: Any) -> None:
    assert by_function("f", _says(given), TEXTS).tolist() == [1, 2.5]


def test_a_function_sees_prompts_as_the_data_have_them() -> None:
    seen = []

    def function(prompts: list[Any], responses: list[str]) -> list[int]:
        seen.append((prompts, responses))
        return [len(response) for response in responses]

    assert by_function("f", function, TEXTS).tolist() == [7, 0]
    assert seen == [(ASKED, ["is good", ""])]


WRONG = [
    ([1.0], "gave 1 scores for 2 responses"),
    ([1, 2, 3], "gave 3 scores for 2 responses"),
    (["good", 1], "gave the text 'good' for the response 'is good'"),
    ([None, 1], "gave None for"),
    ("12", "gave the text '12'; a list of 2 numbers"),
    (None, "gave None; a list of 2 numbers"),
    (torch.ones(2, 2), "gave a list for"),
    (torch.tensor(1.0), "gave a float; a list of 2"),
    ([torch.ones(3), 1], "gave an array for"),
    ({"scores": [1, 2]}, "gave a dict; a list of 2"),
]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300, 10**400])
def test_what_is_not_finite_is_a_score_that_ppo_does_not_learn_from(bad: float) -> None:
    found = by_function("judge:f", _says([1, bad]), TEXTS)
    assert found.isfinite().tolist() == [True, False]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_is_no_score_is_named(given: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        by_function("judge:f", _says(given), TEXTS)
    assert str(caught.value).startswith("ppo.rewards: the function judge:f " + message)
    assert caught.value.exit_code == 2


def test_a_function_that_raises_is_told_by_its_last_line() -> None:
    def function(prompts: list[Any], responses: list[str]) -> list[float]:
        raise KeyError("a")

    line = function.__code__.co_firstlineno + 1
    told = rf"the function judge:f raised KeyError: 'a' \(test_rewards.py, line {line}; for 2 .*'a film'"
    with pytest.raises(UserError, match=told):
        by_function("judge:f", function, TEXTS)


# Services


class _Service(BaseHTTPRequestHandler):
    answers: list[tuple[int, bytes]] = []
    asked: list[Any] = []
    callers: list[Any] = []
    paths: list[str] = []
    wait = 0.0
    retry_after: str | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(json.loads(body))
        self.callers.append(self.client_address)
        self.paths.append(self.path)
        time.sleep(self.wait)
        code, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(code)
        self.send_header("Content-Length", str(len(answer)))
        if self.retry_after is not None:
            self.send_header("Retry-After", self.retry_after)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Service]]]:
    monkeypatch.setattr(service_module, "PAUSE", 0.01)

    class Handler(_Service):
        answers: list[tuple[int, bytes]] = []
        asked: list[Any] = []
        callers: list[Any] = []
        paths: list[str] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/score", Handler
    server.shutdown()
    server.server_close()


def test_a_service_is_asked_in_json(service: tuple[str, type[_Service]]) -> None:
    url, handler = service
    handler.answers.append((200, b'{"scores": [0.5, -1]}'))
    assert Service(url, 5).scores(TEXTS).tolist() == [0.5, -1]
    assert handler.asked == [{"prompts": ASKED, "responses": ["is good", ""]}]


def test_a_service_that_stumbles_is_asked_again(service: tuple[str, type[_Service]]) -> None:
    url, handler = service
    handler.answers += [(500, b""), (503, b""), (200, b'{"scores": [1, 2]}')]
    assert Service(url, 5).scores(TEXTS).tolist() == [1, 2]
    assert len(handler.asked) == 3


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7), ("3600", 60), ("Sat, 28 Nov 2026", 0.01), ("²", 0.01)]
)
def test_a_busy_service_says_when_to_come_again(
    service: tuple[str, type[_Service]], monkeypatch: pytest.MonkeyPatch, asked: str, waited: float
) -> None:
    url, handler = service
    handler.answers += [(429, b""), (200, b'{"scores": [1, 2]}')]
    monkeypatch.setattr(handler, "retry_after", asked.encode().decode("latin-1"))
    pauses: list[float] = []
    monkeypatch.setattr(service_module.time, "sleep", pauses.append)
    assert Service(url, 5).scores(TEXTS).tolist() == [1, 2]
    assert [x for x in pauses if x] == [waited]


@pytest.mark.parametrize(
    ("code", "answer", "message", "tries"),
    [
        (500, b"", r"answered 500 \(Internal Server Error\), 3 times", 3),
        (404, b"", r"answered 404 \(Not Found\)\.", 1),
        (200, b"<html>hello", "answered '<html>hello', not", 1),
        (200, b"[1, 2]", "answered '\\[1, 2\\]', not", 1),
        (200, b'{"scores": [1]}', "gave 1 scores for 2", 1),
        (200, b'{"scores": "high"}', "gave the text 'high'", 1),
        (200, b"\xff\xfe\x00", "answered", 1),
    ],
)
def test_what_a_service_does_wrong_is_told_in_one_line(
    service: tuple[str, type[_Service]], code: int, answer: bytes, message: str, tries: int
) -> None:
    url, handler = service
    handler.answers.append((code, answer))
    with pytest.raises(AlignError, match=message) as caught:
        Service(url, 5).scores(TEXTS)
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(f"ppo.rewards: {url} ")
    assert len(handler.asked) == tries


def test_a_service_that_is_slow_or_away(service: tuple[str, type[_Service]]) -> None:
    url, handler = service
    handler.answers.append((200, b'{"scores": [1, 2]}'))
    handler.wait = 0.5
    with pytest.raises(AlignError, match=r"did not answer within 0.1 s .*3 times"):
        Service(url, 0.1).scores(TEXTS)
    with pytest.raises(AlignError, match=r"cannot be reached: .*3 times.*last checkpoint is good"):
        Service("http://127.0.0.1:9/score", 1).scores(TEXTS)


def test_calls_share_a_connection(service: tuple[str, type[_Service]]) -> None:
    url, handler = service
    handler.answers.append((200, b'{"scores": [1, 2]}'))
    handler.protocol_version = "HTTP/1.1"
    judge = Service(url, 5)
    for _ in range(3):
        assert judge.scores(TEXTS).tolist() == [1, 2]
    assert len(handler.asked) == 3
    assert len(set(handler.callers)) == 1


def test_a_service_is_asked_through_the_environments_proxy(
    service: tuple[str, type[_Service]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = service
    handler.answers.append((200, b'{"scores": [1, 2]}'))
    monkeypatch.setenv("http_proxy", url.removesuffix("/score"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert Service("http://judge.invalid/score", 5).scores(TEXTS).tolist() == [1, 2]
    assert handler.paths == ["http://judge.invalid/score"]


def test_a_service_of_this_machine_is_asked_without_a_proxy(
    service: tuple[str, type[_Service]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = service
    handler.answers = [(200, b'{"scores": [1, 2]}')] * 2
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert Service(url, 5).scores(TEXTS).tolist() == [1, 2]
    assert Service(url.replace("127.0.0.1", "localhost"), 5).scores(TEXTS).tolist() == [1, 2]


def test_an_answer_without_end_is_cut(
    service: tuple[str, type[_Service]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = service
    handler.answers.append((200, b'{"scores": [1, 2]}' + b" " * 2**20 + b"x"))
    monkeypatch.setattr(service_module, "_MOST_BYTES", 1000)
    assert Service(url, 5).scores(TEXTS).tolist() == [1, 2]
    monkeypatch.setattr(service_module, "_MOST_BYTES", 10)
    with pytest.raises(AlignError, match=r"answered '\{\"scores\":', not"):
        Service(url, 5).scores(TEXTS)


# In the stage

JUDGE = """
from pathlib import Path

def length(prompts, responses):
    assert all(prompt.startswith("the ") for prompt in prompts), prompts
    return [len(response) / 10 for response in responses]


def breaks_later(prompts, responses, calls=[]):
    calls.append(1)
    broken = len(calls) > 2 and Path("BROKEN").exists()
    return [float("nan") if broken else 1.0] * len(prompts)
"""
FUNCTIONS: dict[str, Any] = {"rewards": [{"function": "judge:length"}], "value_init": "policy"}


@pytest.fixture
def sft_only(finished_run: Path, tmp_path: Path, tiny_base: Path) -> Callable[..., Path]:
    """A recipe with a finished sft, without a reward model, and with judge.py beside it."""

    def make(**fields: Any) -> Path:
        recipe = make_recipe(tmp_path, tiny_base, ppo={**json.loads(_ppo(finished_run)), **fields})
        shutil.copytree(finished_run / "sft", tmp_path / "runs" / "tiny" / "sft", dirs_exist_ok=True)
        (tmp_path / "judge.py").write_text(JUDGE)
        return recipe

    return make


def _ppo(run: Path) -> str:
    raw = json.loads((run.parents[1] / "recipe.yaml").read_text())
    return json.dumps(raw["ppo"])


def _metrics(recipe: Path) -> list[dict[str, float]]:
    path = recipe.parent / "runs" / "tiny" / "ppo" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_function_beside_the_recipe_trains_a_policy_without_a_reward_model(
    sft_only: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = sft_only(**FUNCTIONS)
    done = align("ppo", recipe)
    assert done.returncode == 0, done.stderr
    rows = _metrics(recipe)
    assert all(row["reward/length"] == pytest.approx(row["reward/score"]) for row in rows[:-1])
    held_out = [json.loads(line) for line in (tmp_path / "runs/tiny/ppo/held_out.jsonl").open()]
    assert held_out
    for row in held_out:
        assert row["policy_score"] == pytest.approx(len(row["policy"]) / 10)
        assert row["reference_score"] == pytest.approx(len(row["reference"]) / 10)


def test_a_changed_function_is_refused_and_a_moved_one_is_not(sft_only: Callable[..., Path]) -> None:
    recipe = sft_only(rewards=[{"function": "judge:breaks_later"}], value_init="policy")
    judge, broken = recipe.parent / "judge.py", recipe.parent / "broken"
    code = JUDGE.replace("BROKEN", str(broken))
    judge.write_text(code)
    broken.touch()
    done = align("ppo", recipe)
    assert done.returncode == 1
    assert "ppo.rewards: breaks_later gave" in done.stdout  # each step that was not applied
    assert "a held-out answer a score that is not finite, so final/ is not written" in done.stderr
    assert "Traceback" not in done.stderr
    steps = [p.name for p in (recipe.parent / "runs/tiny/ppo/checkpoints").glob("step-*")]
    assert "step-000002" in steps
    broken.unlink()
    judge.write_text(code + "\n# another opinion\n")
    done = align("ppo", recipe)
    assert done.returncode == 2
    assert "lineage.reward/breaks_later: was" in done.stderr
    judge.write_text(code)
    elsewhere = recipe.parent / "moved"
    elsewhere.mkdir()
    judge.rename(elsewhere / "judge.py")
    moved = ["--set", f"ppo.rewards=[{{function: '{elsewhere}/judge.py:breaks_later'}}]"]
    done = align("ppo", recipe, *moved)
    assert done.returncode == 0, done.stderr
    assert "goes on from step 2" in done.stdout


def _prepared(recipe_path: Path, overrides: list[str]) -> Any:
    recipe = load_recipe(recipe_path, overrides)
    setup = set_up(recipe)
    found = find_sources(recipe, setup.lineage)
    return prepare(recipe, setup, recipe.run.path / "sft" / "final", found), setup, found


def _rollout(context: Any, setup: Any) -> Any:
    from align.ppo.rollout import score_rollout
    from align.rewards.rewards import texts_of
    from align.sampling.engines import sampling_params
    from align.sampling.params import Draws

    prompts = [setup.template.prompt_ids(text) for text in ("the film is", "the a was")]
    params = sampling_params(context.cfg, setup.base)
    sampled = context.engine.sample(prompts, Draws(context.seed, "ppo", 0, [0, 1]), params)
    texts = texts_of(context.rewards, sampled, prompts, [0, 1], setup.template)
    kwargs: Any = {"temperature": 1.0, "microbatch_tokens": 64}
    return score_rollout(context.forward, sampled, context.rewards, texts, **kwargs), sampled


def test_the_score_is_the_weighted_sum(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    overrides = [f"run.folder={tmp_path}", "run.name=run"]
    (tmp_path / "lengths.py").write_text("def f(prompts, responses): return [len(r) for r in responses]")
    model, function = "{run: this, weight: 2.0}", f"{{function: '{tmp_path}/lengths.py:f', weight: -0.5}}"
    context, setup, _ = _prepared(recipe, [*overrides, f"ppo.rewards=[{model}, {function}]"])
    rollout, sampled = _rollout(context, setup)
    plain, setup, _ = _prepared(recipe, overrides)
    alone, again = _rollout(plain, setup)
    assert [one.response for one in sampled] == [one.response for one in again]
    lengths = [len(setup.base.tokenizer.decode(one.response, skip_special_tokens=True)) for one in sampled]
    assert rollout.parts["f"].tolist() == lengths
    torch.testing.assert_close(rollout.parts["model"], alone.scores)
    torch.testing.assert_close(rollout.scores, 2 * alone.scores - 0.5 * torch.tensor(lengths).float())


def test_a_reward_model_may_have_another_base_and_tokenizer(finished_run: Path, tmp_path: Path) -> None:
    """Its scores are those that `align score` gives to the text."""
    from align.models.scoring import score_pairs
    from align.serving.run import open_run, reward_model

    other = _other_base(tmp_path / "other")
    lora = {"rank": 2, "alpha": 4, "targets": ["q_proj"]}
    recipe = make_recipe(tmp_path / "theirs", other, rm={"steps": 2}, sft={"steps": 2}, lora=lora)
    sft.run(load_recipe(recipe))
    rm.run(load_recipe(recipe))
    theirs = tmp_path / "theirs" / "runs" / "tiny"
    shutil.copytree(finished_run, tmp_path / "run")
    ours = tmp_path / "run" / "recipe.yaml"
    overrides = [f"run.folder={tmp_path}", "run.name=run", f"ppo.rewards=[{{run: {theirs}, name: theirs}}]"]
    with pytest.raises(UserError, match="set `ppo.value_init: policy`"):
        _prepared(ours, overrides)
    context, setup, found = _prepared(ours, [*overrides, "ppo.value_init=policy"])
    assert set(found[0].parent.hashes) == {"reward/theirs", "reward/theirs_head", "reward/theirs_base"}
    rollout, sampled = _rollout(context, setup)
    manifest = json.loads((theirs / "rm" / "manifest.json").read_text())
    manifest["recipe"]["base"]["trust_remote_code"] = True  # a stranger's run must not bring code
    (theirs / "rm" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="runs the Python code of .*base.trust_remote_code: true"):
        _prepared(ours, [*overrides, "ppo.value_init=policy"])
    manifest["recipe"]["base"]["trust_remote_code"] = False
    (theirs / "rm" / "manifest.json").write_text(json.dumps(manifest))
    trained = open_run(theirs, "rm")
    template, pairs = trained.setup.template, []
    for one, asked in zip(sampled, ("the film is", "the a was"), strict=True):
        text = setup.base.tokenizer.decode(one.response, skip_special_tokens=True)
        ended = one.response[-1] == setup.template.eos_id
        ids = template.response_ids(text)
        pairs.append((template.prompt_ids(asked), ids if ended or len(ids) == 1 else ids[:-1]))
    expected = score_pairs(reward_model(trained), "reward", pairs, 64)
    torch.testing.assert_close(rollout.scores, expected)


def _other_base(folder: Path) -> Path:
    """Another seed, and a tokenizer whose ids are others."""
    import conftest

    text = conftest.TEXT
    try:
        conftest.TEXT = ["people talk about the weather and the price of old bread", *text[:2]]
        make_tiny_base(folder, seed=5)
    finally:
        conftest.TEXT = text
    return folder


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ("[{function: judge:f}]", "set `value_init: policy`"),
        ("[{function: judge:f, url: http://x}]", "function and url are all named; keep one"),
        ("[{weight: 2.0}]", "one of run, function and url: none is named"),
        ("[{function: judge}]", "write my_package.my_module:function"),
        ("[{url: ftp://x}]", "it starts with http:// or https://"),
        ("[{run: this}, {run: this}]", "two of rewards are called model"),
        ("[{run: this, name: score}]", "score is a metric of its own"),
        ("[{run: this, wieght: 2.0}]", "did you mean weight?"),
    ],
)
def test_wrong_rewards_are_named_when_the_recipe_is_read(
    tiny_recipe: Callable[..., Path], rewards: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(tiny_recipe(), [f"ppo.rewards={rewards}"])
    assert message in str(caught.value)


def test_a_function_that_cannot_be_loaded_is_told(sft_only: Callable[..., Path]) -> None:
    recipe = sft_only(rewards=[{"function": "judge:nothing"}], value_init="policy")
    done = align("ppo", recipe)
    assert done.returncode == 2
    assert "has no attribute 'nothing'" in done.stderr
    assert not (recipe.parent / "runs" / "tiny" / "ppo").exists()


def test_a_service_that_goes_away_leaves_the_last_checkpoint(
    sft_only: Callable[..., Path], service: tuple[str, type[_Service]]
) -> None:
    url, handler = service
    eight = b'{"scores": [1, 2, 3, 4, 5, 6, 7, 8]}'
    handler.answers += [(200, eight), (200, eight), (404, b"")]
    recipe = sft_only(rewards=[{"url": url}], value_init="policy")
    done = align("ppo", recipe)
    assert done.returncode == 1
    assert "answered 404" in done.stderr
    assert "Traceback" not in done.stderr
    assert (recipe.parent / "runs/tiny/ppo/checkpoints/step-000002").is_dir()
    assert "reward/127.0.0.1" in _metrics(recipe)[0]
