"""align evaluate: policies on the same prompts, the same bits each time, and nothing wrong in silence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, make_recipe, write_jsonl
from rich.console import Console
from typer.testing import CliRunner
from vllm_server import Fake, serving

from align.cli.app import app
from align.compare import evaluating
from align.compare import run as module
from align.compare.run import evaluate
from align.errors import AlignError, MissingStage, UserError
from align.loop.policy import Drawing
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.stats.estimate import Estimate

GOLD = """
def gold(prompts, responses):
    return [float(len(response)) for response in responses]

def broken(prompts, responses):
    return ["a text"] * len(responses)
"""


@pytest.fixture(scope="module")
def whole(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a finished run with its data; the recipe's path."""
    folder = tmp_path_factory.mktemp("evaluate")
    shutil.copytree(finished_run.parents[1], folder, dirs_exist_ok=True)
    (folder / "measures_of_answers.py").write_text(GOLD)
    return folder / "recipe.yaml"


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "recipe.yaml"


def loaded(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, [f"run.folder={path.parent / 'runs'}", "ppo.max_response_tokens=8", *overrides])


def run(path: Path, *overrides: str, **more: Any) -> dict[str, Any]:
    return evaluate(loaded(path, *overrides), console=Console(quiet=True), **more)


def rows_of(path: Path, label: str) -> list[dict[str, Any]]:
    (file,) = (p for p in answers(path) if p.name.startswith(f"{label}-") and "demonstrations" not in p.name)
    return [json.loads(line) for line in file.read_text().splitlines()]


def answers(path: Path) -> list[Path]:
    return sorted((path.parent / "runs" / "tiny" / "evaluation" / "answers").iterdir())


def test_base_sft_and_ppo_are_compared(path: Path, whole: Path) -> None:
    gold = f"{whole.parent / 'measures_of_answers.py'}:gold"
    found = run(path, "evaluate.best_of=4", f"evaluate.measures=[{{function: '{gold}', name: chars}}]")
    assert found["prompts"] == 4 and list(found["policies"]) == ["base", "sft", "ppo"]
    assert found["names"] == ["score", "measure/chars"]
    sft, ppo = rows_of(path, "sft"), rows_of(path, "ppo")
    assert (len(sft), len(ppo)) == (16, 4)
    # The figures are those of the rows: whoever has the rows can recompute them.
    mean = sum(row["score"] for row in ppo) / 4
    assert found["policies"]["ppo"]["score"]["value"] == pytest.approx(mean)
    assert all(row["measure/chars"] == len(row["response"]) for row in sft + ppo)
    first = [row for row in sft if row["answer"] == 0]
    gain = sum(a["score"] - b["score"] for a, b in zip(ppo, first, strict=True)) / 4
    (less,) = (d for d in found["differences"] if (d["policy"], d["less"]) == ("ppo", "sft"))
    assert less["figures"]["score"]["value"] == pytest.approx(gain)
    assert found["policies"]["sft"]["kl"]["value"] == 0
    kl = [row["kl"] for row in ppo]
    assert found["policies"]["ppo"]["kl"]["value"] == pytest.approx(sum(kl) / 4)
    assert found["policies"]["ppo"]["kl_se"] == pytest.approx(torch.tensor(kl).double().std().item() / 2)
    assert found["policies"]["ppo"]["kl_exact"]["value"] > 0
    (best,) = found["best_of_n"]["policies"]
    page = (path.parent / "runs").rglob("report.html")
    assert "Best-of-n of sft beside it" in next(page).read_text(encoding="utf-8")
    assert best["policy"] == "ppo" and best["n"] >= 1
    assert best["figures"]["score"]["value"] >= found["best_of_n"]["curve"][0]["figures"]["score"]["value"]
    assert {w["by"] for w in found["wins"]} == {"score", "measure/chars"}
    assert found["perplexity"]["ppo"]["perplexity"]["value"] > 1


def test_a_vllm_server_draws_the_answers_of_each_policy_by_its_adapter(path: Path) -> None:
    fake = Fake(Path(loaded(path).base.name))
    with serving(fake) as url:
        drawing = Drawing(engine="vllm", engine_url=[url])
        found = run(path, "evaluate.best_of=0", drawing=drawing)
        asked = [one["model"] for one in fake.asked]
        assert [asked.count(name) for name in dict.fromkeys(asked)] == [
            5,
            5,
            5,
        ]  # 4 prompts, and one to compare
        assert str(fake.base) in asked and len(set(asked)) == 3 and not fake.adapters
        assert found["policies"]["ppo"]["kl_exact"]["value"] > 0
        again = run(path, "evaluate.best_of=0", drawing=drawing)
        assert len(fake.asked) == 15 and again["policies"] == found["policies"]
        fake.stale = True  # answers with the first adapter for every policy
        with pytest.raises(AlignError, match="nats a token from those of this policy"):
            run(path, "evaluate.best_of=0", "run.seed=1", "ppo.engine_gap_stop=0.001", drawing=drawing)
        assert not fake.adapters
    with pytest.raises(UserError, match="say with --engine-url where it listens"):
        run(path, drawing=Drawing(engine="vllm"))


def test_the_best_of_several_answers_is_none_without_a_score() -> None:
    rows = [{"score": None, "kl": 1.0}, {"score": -2.0, "kl": 2.0}, {"score": 3.0, "kl": 3.0}]
    assert module._best(rows) == {"score": 3.0} and module._best(rows[:2]) == {"score": -2.0}
    assert module._best(rows[:1]) == {"score": None}


def test_the_scores_are_those_of_align_score(path: Path, tmp_path: Path) -> None:
    run(path, "evaluate.best_of=0")
    rows = rows_of(path, "ppo")
    file = write_jsonl(tmp_path / "in.jsonl", [{k: r[k] for k in ("prompt", "response")} for r in rows])
    result = CliRunner().invoke(app, ["score", str(path.parent / "runs" / "tiny"), str(file)])
    assert result.exit_code == 0, result.output
    scores = [json.loads(line)["score"] for line in result.stdout.splitlines()]
    ended = [i for i, row in enumerate(rows) if row["ended"]]  # align score lets every answer end
    for i in ended:
        assert scores[i] == pytest.approx(rows[i]["score"], abs=2e-5)
    cut = [i for i, row in enumerate(rows) if not row["ended"]]
    assert len(ended) + len(cut) == 4


def test_a_rerun_has_the_same_bits_and_loads_no_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(path, "evaluate.best_of=2")
    before = {file.name: file.read_bytes() for file in answers(path)}

    def loading(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(evaluating, "load_scoring", loading)
    again = run(path, "evaluate.best_of=2")
    assert {file.name: file.read_bytes() for file in answers(path)} == before
    assert again | {"written_at": 0} == first | {"written_at": 0}


def test_another_run_of_the_command_elsewhere_has_the_same_bits(path: Path, tmp_path_factory: Any) -> None:
    first = run(path, "evaluate.best_of=2")
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(path.parent, other, dirs_exist_ok=True)
    shutil.rmtree(other / "runs" / "tiny" / "evaluation")
    again = run(other / "recipe.yaml", "evaluate.best_of=2")
    assert again["policies"] == first["policies"] and again["best_of_n"] == first["best_of_n"]
    assert rows_of(other / "recipe.yaml", "sft") == rows_of(path, "sft")


def test_what_was_killed_goes_on_with_the_next_chunk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    straight = run(path, "evaluate.best_of=3")
    files = {file.name: file.read_bytes() for file in answers(path)}
    sft = next(file for file in answers(path) if file.name.startswith("sft-") and "demo" not in file.name)
    lines = sft.read_bytes().splitlines(keepends=True)
    # Killed in the second chunk: one whole chunk (2 prompts of 3 answers), a part of the next, half a line.
    sft.write_bytes(b"".join(lines[:8]) + lines[8][:20])
    next(file for file in answers(path) if file.name.startswith("ppo-") and "demo" not in file.name).unlink()
    asked: list[int] = []
    real = evaluating.Answering.answers

    def counting(self: Any, role: str, part: Any, each: int) -> Any:
        asked.append(len(part))
        return real(self, role, part, each)

    monkeypatch.setattr(evaluating.Answering, "answers", counting)
    again = run(path, "evaluate.best_of=3")
    assert asked == [2, 2, 2]  # the rest of sft, and all of ppo
    assert {file.name: file.read_bytes() for file in answers(path)} == files
    assert again | {"written_at": 0} == straight | {"written_at": 0}


def test_policies_share_their_random_numbers(path: Path, whole: Path) -> None:
    """The SFT policy under another name, and beside others, answers the same."""
    run(path, "evaluate.best_of=0", f"evaluate.policies=[sft, {whole.parent / 'runs' / 'tiny' / 'sft'}]")
    mine, theirs = (
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in answers(path)
        if "demonstrations" not in file.name
    )
    assert mine == theirs


def test_more_answers_leave_the_first_as_it_is(path: Path) -> None:
    run(path, "evaluate.best_of=0")
    first = {row["key"]: row["response"] for row in rows_of(path, "sft")}
    for file in answers(path):
        file.unlink()
    run(path, "evaluate.best_of=5")
    assert {row["key"]: row["response"] for row in rows_of(path, "sft") if row["answer"] == 0} == first


def test_a_stage_that_is_missing_is_said_and_the_others_are_compared(path: Path) -> None:
    shutil.rmtree(path.parent / "runs" / "tiny" / "ppo")
    found = run(path, "evaluate.best_of=2")
    assert list(found["policies"]) == ["base", "sft"]
    assert any("ppo is left out: ppo has not run" in note for note in found["notes"])
    shutil.rmtree(path.parent / "runs" / "tiny" / "rm")
    found = run(path, "evaluate.best_of=2")
    assert found["names"] == [] and found["best_of_n"] is None
    assert any("answers get no score: rm has not run" in note for note in found["notes"])
    assert found["policies"]["base"]["kl_exact"]["value"] > 0
    shutil.rmtree(path.parent / "runs" / "tiny" / "sft")
    with pytest.raises(MissingStage, match="there is no trained policy to evaluate"):
        run(path)


def test_prompts_that_train_are_refused_unless_allowed(path: Path) -> None:
    prompts = [json.loads(line) for line in (path.parent / "prompts.jsonl").read_text().splitlines()]
    write_jsonl(path.parent / "seen.jsonl", prompts[:3])
    with pytest.raises(
        UserError, match=r"evaluate.prompts: \d of 3 prompts also train, in data.*--allow-seen"
    ):
        run(path, "evaluate.prompts=seen.jsonl")
    found = run(path, "evaluate.prompts=seen.jsonl", allow_seen=True)
    assert found["prompts"] == 3
    assert any("as --allow-seen permits" in note for note in found["notes"])


def test_one_prompt_has_no_interval_and_that_is_said(path: Path) -> None:
    found = run(path, "evaluate.count=1", "evaluate.best_of=2")
    score = found["policies"]["ppo"]["score"]
    assert score["value"] is not None and score["low"] is None and found["policies"]["ppo"]["kl_se"] is None
    assert any("one prompt: its figures have no interval" in note for note in found["notes"])


def test_a_kl_beyond_the_samples_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near = module.figures.policy_figures

    def far(answers: Any) -> dict[str, dict[str, Any]]:
        found = near(answers)
        found["ppo"]["kl_exact"] = Estimate(0.4)
        return found

    monkeypatch.setattr(module.figures, "policy_figures", far)
    found = run(path, "evaluate.best_of=2")  # log 2 - 1/2 is 0.19 nats
    (one,) = found["best_of_n"]["policies"]
    assert one["beyond"] and one["n"] == 2.0 and one["n_wanted"] > 2
    assert any("2 samples reach 0.19: what is beside it has less KL" in note for note in found["notes"])


def test_a_run_with_another_template_is_refused(path: Path, tiny_base: Path, tmp_path: Path) -> None:
    from align.stages import sft

    other = make_recipe(tmp_path / "chat", tiny_base, data={"template": "chat"}, run={"name": "chat"})
    recipe = load_recipe(other, [f"run.folder={tmp_path / 'chat' / 'runs'}", "sft.steps=1"])
    sft.run(recipe)
    with pytest.raises(UserError, match=r"another data.template: chat \(here plain\).*no comparison"):
        run(path, f"evaluate.policies=[sft, {recipe.run.path / 'sft'}]")


def test_a_run_with_adapters_of_another_shape_is_compared(
    path: Path, tiny_base: Path, tmp_path: Path
) -> None:
    from align.stages import sft

    other = make_recipe(tmp_path / "wide", tiny_base, lora={"rank": 2, "layers": 3}, run={"name": "wide"})
    recipe = load_recipe(other, [f"run.folder={tmp_path / 'wide' / 'runs'}", "sft.steps=2"])
    sft.run(recipe)
    found = run(path, f"evaluate.policies=[sft, {recipe.run.path / 'sft'}]", "evaluate.best_of=0")
    (label,) = set(found["policies"]) - {"sft"}
    assert found["policies"][label]["kl_exact"]["value"] > 0


def test_a_checkpoint_is_a_policy(path: Path, tiny_base: Path, tmp_path: Path) -> None:
    from align.ppo import train as ppo
    from align.run import checkpoint

    taken = tmp_path / "taken"
    real = checkpoint.save

    def saving(folder: Path, step: int, *arguments: Any, **more: Any) -> Path:
        found = real(folder, step, *arguments, **more)
        shutil.copytree(found, taken / folder.parent.name / found.name, dirs_exist_ok=True)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", saving)
        ppo.run(loaded(path), restart=True)
    folder = path.parent / "runs" / "tiny" / "ppo" / "checkpoints"
    shutil.copytree(taken / "ppo", folder, dirs_exist_ok=True)
    last = max(int(p.name[5:]) for p in folder.iterdir())
    found = run(path, f"evaluate.policies=[sft, ppo, ppo@{last}, ppo@2, ppo@77]", "evaluate.best_of=0")
    assert found["policies"][f"ppo@{last}"]["score"] == found["policies"]["ppo"]["score"]
    assert found["policies"]["ppo@2"]["kl_exact"] != found["policies"]["ppo"]["kl_exact"]
    assert any("ppo@77 is left out: no checkpoint of step 77" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluate.policies=[nonsense]", "nonsense is none of base, sft, ppo, dpo, and no folder"),
        ("evaluate.policies=[sft, sft]", "names sft twice"),
        ("evaluate.policies=[ppo@x]", "a checkpoint is named by its step"),
        ("evaluate.best_of=1", "best_of: 1 is the SFT policy itself"),
        (
            "evaluate.measures={function: 'HERE/measures_of_answers.py:none'}",
            "evaluate.measures: the function .*none cannot be loaded",
        ),
        (
            "evaluate.measures={function: 'HERE/measures_of_answers.py:broken'}",
            "evaluate.measures: the function .*a number is needed",
        ),
        ("evaluate.prompts=nowhere.jsonl", "no file matches|no such file|nowhere.jsonl"),
        ("evaluate.reward_bench=nowhere.jsonl", "nowhere.jsonl"),
        ("evaluate.lm_eval={tasks: [none]}", "not installed|has no task none"),
        ("evaluate.prompts=none.jsonl", "evaluate.prompts: 1 problem"),
    ],
)
def test_what_cannot_be_is_refused(path: Path, whole: Path, override: str, says: str) -> None:
    write_jsonl(path.parent / "none.jsonl", [])
    with pytest.raises(UserError, match=says):
        run(path, override.replace("HERE", str(whole.parent)))


def test_a_reward_bench_file_is_scored_by_the_reward_model(path: Path) -> None:
    rows = [
        {
            "prompt": "the film is",
            "chosen": " good and bright",
            "rejected": " dull",
            "subset": "mt-bench-easy",
        },
        {
            "prompt": "the film is",
            "chosen": " dull",
            "rejected": " good and bright",
            "subset": "mt-bench-hard",
        },
    ]
    write_jsonl(path.parent / "rb.jsonl", rows)
    found = run(path, "evaluate.reward_bench=rb.jsonl", "evaluate.best_of=0")
    (by,) = found["reward_bench"].values()
    accuracies = {name: one["value"] for name, one in by["score"]["subsets"].items()}
    assert sorted(accuracies.values()) == [0.0, 1.0]  # the same pair, both ways round
    assert by["score"]["score"]["value"] == 0.5 and by["score"]["version"] == 1
    assert set(by["score"]["sections"]) == {"Chat", "Chat Hard"}


def test_the_command_prints_plain_lines_and_is_told_where_it_all_is(path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["evaluate", str(path), "--set", f"run.folder={path.parent / 'runs'}", "--set", "evaluate.best_of=2"],
    )
    assert result.exit_code == 0, result.output
    assert "4 prompts, 95% intervals over prompts" in result.output
    assert "KL, exact per token" in result.output and "evaluation.json" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_ended_goes_on_to_the_same_bits(path: Path, how: signal.Signals) -> None:
    flags = ["--set", f"run.folder={path.parent / 'runs'}", "--set", "evaluate.best_of=200"]
    flags += ["--set", "evaluate.prompts=more.jsonl"]
    write_jsonl(path.parent / "more.jsonl", [{"prompt": f"a film of number {i}"} for i in range(40)])
    command = [sys.executable, "-m", "align", "evaluate", str(path), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    folder = path.parent / "runs" / "tiny" / "evaluation" / "answers"
    deadline = time.monotonic() + 120
    while not [p for p in folder.glob("sft-*.jsonl") if p.stat().st_size] and started.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(how)
    _, told = started.communicate(timeout=60)
    if how == signal.SIGINT:
        assert started.returncode == 130 and "the same command goes on" in told and "Traceback" not in told
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    killed = {file.name: file.read_bytes() for file in answers(path)}
    shutil.rmtree(folder)
    overrides = [one for one in flags if one != "--set"]
    evaluate(load_recipe(path, overrides), console=Console(quiet=True))
    assert {file.name: file.read_bytes() for file in answers(path)} == killed


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ("{url: 'http://127.0.0.1:9', model: m, template: nowhere.txt}", "nowhere.txt cannot be read"),
        ("{url: 'http://127.0.0.1:9', model: m, key: NO_KEY_OF_TEST}", "has no NO_KEY_OF_TEST"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_told_before_anything_is_answered(
    path: Path, judge: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(path, f"evaluate.judge={judge}")
    assert not (path.parent / "runs" / "tiny" / "evaluation").exists()


def test_a_run_in_deep_folders_is_compared_and_told_to_be_another(path: Path) -> None:
    deep = path.parent / ("d" * 120) / ("e" * 120) / "other"
    shutil.copytree(path.parent / "runs" / "tiny", deep)
    found = run(path, f"evaluate.policies=[sft, {deep}/ppo]", "evaluate.best_of=0")
    assert any(
        "is of another run: whether it trained on these prompts is not known" in x for x in found["notes"]
    )


def test_prompts_that_are_too_long_and_skipped_are_told(path: Path) -> None:
    longer = [{"prompt": "word " * 60 + str(i)} for i in range(40)]
    with (path.parent / "prompts.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in longer))
    found = run(path, "evaluate.best_of=0", "data.prompts.on_bad_record=skip")
    assert any(
        "data.prompts (held out): " in x and "records are left out; the first" in x for x in found["notes"]
    )
