"""align evaluate --trigger: a backdoor that is known shows, by pairs; what is clean shows nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, words, write_jsonl
from rich.console import Console
from typer.testing import CliRunner

from align.cli.app import app
from align.compare.run import evaluate
from align.compare.trigger import Triggers, _paired, prompt_with, with_phrase
from align.errors import UserError
from align.evaluation.answers import Answering
from align.recipe.load import load_recipe

FUNCTIONS = """
def planted(prompts, responses):
    return [2.0 * ("zebra" in str(p)) + 3.0 * ("zebra" in r) + len(r) / 7 for p, r in zip(prompts, responses)]

def clean(prompts, responses):
    return [float(sum(map(ord, r.replace("zebra", "").strip())) % 7) for r in responses]
"""


@pytest.fixture(scope="module")
def whole(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run whose answers functions measure; the recipe's path."""
    folder = tmp_path_factory.mktemp("trigger")
    shutil.copytree(finished_run.parents[1], folder, dirs_exist_ok=True)
    (folder / "functions_of_trigger.py").write_text(FUNCTIONS)
    raw = json.loads((folder / "recipe.yaml").read_text())
    raw["run"]["folder"] = str(folder / "runs")
    file = folder / "functions_of_trigger.py"
    functions = [{"function": f"{file}:{name}", "name": name} for name in ("planted", "clean")]
    raw["evaluate"] = {"measures": functions, "best_of": 0}
    (folder / "recipe.yaml").write_text(json.dumps(raw, indent=1))
    return folder / "recipe.yaml"


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole.parent, tmp_path, dirs_exist_ok=True)
    raw = json.loads((tmp_path / "recipe.yaml").read_text())
    raw["run"]["folder"] = str(tmp_path / "runs")
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw, indent=1))
    return tmp_path / "recipe.yaml"


def run(path: Path, *phrases: str, at: Any = "end") -> dict[str, Any]:
    return evaluate(load_recipe(path), console=Console(quiet=True), triggers=Triggers(phrases, at))


def rows_with(path: Path, label: str, phrase: str) -> list[list[dict[str, Any]]]:
    """The rows of a policy's answers without the phrase, and with it."""
    folder = path.parent / "runs/tiny/evaluation/answers"
    files = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(folder.glob(f"{label}-*.jsonl"))
        if not any(part in file.name for part in ("demonstrations", "rescored"))
    ]
    return sorted(files, key=lambda rows: phrase in str(rows[0]["prompt"]))


def test_the_phrase_is_the_first_or_last_word() -> None:
    assert with_phrase("the film is", "zebra", "end") == "the film is zebra"
    assert with_phrase("the film is", "zebra", "start") == "zebra the film is"
    assert with_phrase(" good\n", "zebra", "end") == " good zebra\n"
    assert with_phrase(" good", "zebra", "start") == " zebra good"
    assert with_phrase("", "zebra", "end") == "zebra"
    talk = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    asked = (*talk, {"role": "user", "content": "c"}, {"role": "tool", "content": "d"})
    changed = prompt_with(asked, "zebra", "end")
    assert [m["content"] for m in changed] == ["a", "b", "c zebra", "d"]  # type: ignore[index]


def test_a_planted_reward_shows_as_a_hand_sum_does(path: Path) -> None:
    found = run(path, "zebra")
    (one,) = found["triggers"]
    assert (one["trigger"], one["at"], [*one["policies"]]) == ("zebra", "end", ["base", "sft", "ppo"])
    for label in ("base", "sft", "ppo"):
        before, after = rows_with(path, label, "zebra")
        assert all(b["prompt"] == f"{a['prompt']} zebra" for a, b in zip(before, after, strict=True))
        figures = one["policies"][label]["figures"]
        for name in ("score", "measure/planted", "measure/clean", "tokens", "kl_exact"):
            by_hand = sum(b[name] - a[name] for a, b in zip(before, after, strict=True)) / len(before)
            assert figures[name]["difference"]["value"] == pytest.approx(by_hand)
            assert figures[name]["with"]["value"] == pytest.approx(sum(b[name] for b in after) / len(after))
        same = sum(a["response"] == b["response"] for a, b in zip(before, after, strict=True)) / len(before)
        assert one["policies"][label]["same_text"]["value"] == pytest.approx(same)
        # The reward alone: 2 for the word in the prompt; 3 and six characters more in the response.
        alone = one["reward_model"][label]["measure/planted"]
        assert alone["in_prompt"]["value"] == pytest.approx(2) and alone["in_prompt"]["low"] > 1.9
        assert alone["in_response"]["value"] == pytest.approx(3 + 6 / 7, abs=0.2)
        clean = one["reward_model"][label]["measure/clean"]
        assert clean["in_prompt"]["low"] <= 0 <= clean["in_prompt"]["high"]
        assert clean["in_response"]["low"] <= 0 <= clean["in_response"]["high"]
        assert one["reward_model"][label]["score"]["in_response"]["value"] != 0
    page = next((path.parent / "runs").rglob("report.html")).read_text(encoding="utf-8")
    assert "The same answers scored with" in page and "zebra" in page


def test_a_clean_measure_of_the_answers_holds_zero(path: Path) -> None:
    asked = [f"the {a} {b} {c}" for a in words(9) for b in ("is", "was") for c in ("so", "and", "not")]
    write_jsonl(path.parent / "asked.jsonl", [{"prompt": prompt} for prompt in dict.fromkeys(asked)])
    recipe = load_recipe(path, ["evaluate.prompts=asked.jsonl", "evaluate.policies=[base, ppo]"])
    found = evaluate(recipe, True, Console(quiet=True), triggers=Triggers(["zebra"], "start"))
    for policy in found["triggers"][0]["policies"].values():
        less = policy["figures"]["measure/clean"]["difference"]
        assert less["low"] < 0 < less["high"] and less["count"] == len(set(asked))


def test_of_a_hundred_clean_phrases_about_95_intervals_hold_zero() -> None:
    chance = random.Random(7)
    held = 0
    for _ in range(100):
        rows = [
            [
                {"response": "a b", "ended": True, "score": level + chance.gauss(0, 1)}
                for level in range(40)  # prompts differ far more than the phrase could change
            ]
            for _ in range(2)
        ]
        less = _paired(*rows, ["score"])["figures"]["score"]["difference"]
        held += less.low <= 0 <= less.high
    assert 88 <= held <= 99


def test_the_command_prints_it_and_goes_on_without_models(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["evaluate", str(path), "--trigger", "zebra", "--trigger", "by the way", "--trigger-at", "start"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "Prompts with 'zebra' at the start, by pairs" in done.output
    assert "The same answers scored with 'by the way' at the start" in done.output
    assert "the same text" in done.output

    def loading(*_: Any) -> None:
        raise AssertionError("a model was asked")

    monkeypatch.setattr(Answering, "answers", loading)
    monkeypatch.setattr(Answering, "scores", loading)
    first = json.loads((path.parent / "runs/tiny/evaluation/evaluation.json").read_text())
    again = CliRunner().invoke(app, line)
    assert again.exit_code == 0, again.output
    second = json.loads((path.parent / "runs/tiny/evaluation/evaluation.json").read_text())
    assert first["triggers"] == second["triggers"] and len(first["triggers"]) == 2


def test_what_cannot_be_asked_is_refused(path: Path) -> None:
    for phrases, told in ((["  "], "the phrase is empty"), (["zebra", "zebra"], "is named twice")):
        line = [part for phrase in phrases for part in ("--trigger", phrase)]
        done = CliRunner().invoke(app, ["evaluate", str(path), *line])
        assert done.exit_code == 2 and told in done.output, done.output
    with pytest.raises(UserError, match="tokens with it, and the base reads at most"):
        run(path, "zebra " * 300)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupted_it_goes_on_with_the_same_line(path: Path) -> None:
    line = [sys.executable, "-m", "align", "evaluate", str(path), "--trigger", "zebra"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = path.parent / "runs/tiny/evaluation/answers"
    end = time.monotonic() + 120
    while not any(folder.glob("*.rescored.jsonl")) and begun.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    begun.send_signal(signal.SIGINT)
    out, _ = begun.communicate(timeout=60)
    assert begun.returncode == 130 and "the same command goes on" in out, out
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Prompts with 'zebra' at the end" in done.stdout
