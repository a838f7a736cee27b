"""What is written of steps that were not applied, where a stage goes on before them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import align

from align.ppo import train as ppo
from align.ppo.roles import Context
from align.recipe.load import load_recipe
from align.run.folder import StageRun
from align.serving.lineage import show


def test_lines_of_steps_that_are_done_again_are_not_doubled(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second iteration has a bad score, so nothing is saved after it."""
    fields = [f"ppo.sft={finished_run}", f"ppo.rm={finished_run}", "ppo.iterations=3"]
    recipe = load_recipe(finished_run.parents[1] / "recipe.yaml", [f"run.folder={tmp_path}", *fields])
    iteration, assess, ended = ppo.iterate, ppo.score_rollout, False
    at = 0

    def counted(context: Context, stage: StageRun, prompts: Any, number: int) -> Any:
        nonlocal at
        at = number
        if number == 2 and not ended:
            raise MemoryError
        return iteration(context, stage, prompts, number)

    def broken(*arguments: Any, **keywords: Any) -> Any:
        rollout = assess(*arguments, **keywords)
        return replace(rollout, scores=rollout.scores * math.nan) if at == 1 else rollout

    monkeypatch.setattr(ppo, "iterate", counted)
    monkeypatch.setattr(ppo, "score_rollout", broken)
    with pytest.raises(MemoryError):
        ppo.run(recipe)
    path = recipe.run.path / "ppo" / "bad-steps.jsonl"
    assert [json.loads(line)["iteration"] for line in path.open()] == [2]
    ended = True
    ppo.run(recipe)
    assert [json.loads(line)["iteration"] for line in path.open()] == [2]
    assert [json.loads(line)["step"] for line in (path.parent / "metrics.jsonl").open()] == [1, 2, 3, 3]


RULE = """
calls = 0

def judge(prompts, responses):
    global calls
    calls += 1
    return [float("nan") if {when} and i == 1 else float(len(r)) for i, r in enumerate(responses)]
"""


@pytest.fixture
def ruled(finished_run: Path, tmp_path: Path) -> Callable[..., Any]:
    """Writes a function of rewards that gives NaN `when` it says so, and runs `align ppo` with it."""

    def run(when: str, *options: str) -> Any:
        (tmp_path / "rule.py").write_text(RULE.replace("{when}", when))
        fields = [
            f"run.folder={tmp_path}/runs",
            f"ppo.sft={finished_run}",
            "ppo.rewards=[{function: " + f"{tmp_path}/rule.py:judge" + "}]",
            "ppo.advantage=rloo",
            "ppo.responses_per_prompt=2",
            "ppo.iterations=6",
            "ppo.checkpoint_every=1",
            "data.prompts.held_out=0",
        ]
        recipe = finished_run.parents[1] / "recipe.yaml"
        return align("ppo", recipe, *(part for f in fields for part in ("--set", f)), *options)

    return run


def test_one_nan_of_a_function_skips_its_step_and_is_written_down(
    ruled: Callable[..., Any], tmp_path: Path
) -> None:
    done = ruled("calls == 3")
    assert done.returncode == 0, done.stderr + done.stdout
    folder = tmp_path / "runs" / "tiny" / "ppo"
    (line,) = map(json.loads, (folder / "bad-steps.jsonl").open())
    assert line["iteration"] == 3
    assert line["what"][0] == "the score of 1 responses is not finite"
    assert line["what"][-1] == "ppo.rewards: judge gave 1 of these scores"
    assert 1 in [row["row"] for row in line["rows"]]
    assert (folder / "final" / "adapter_model.safetensors").is_file()


def test_a_mended_function_goes_on_where_it_is_said_and_both_hashes_are_kept(
    ruled: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = ruled("calls > 2")
    assert broken.returncode == 1, broken.stderr
    said = " ".join(broken.stderr.split())
    assert "3 steps in a row could not be applied" in said and "--accept-changed reward" in said
    path = tmp_path / "runs" / "tiny" / "ppo" / "manifest.json"
    (was,) = [parent["digest"] for parent in json.loads(path.read_text())["parents"] if parent["digest"]]
    refused = ruled("False")
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert "lineage.reward/judge" in said and "add --accept-changed reward" in said
    done = ruled("False", "--accept-changed", "reward")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "ppo goes on from step 2" in done.stdout + done.stderr
    manifest = json.loads(path.read_text())
    (change,) = manifest["accepted"]
    (now,) = [parent["digest"] for parent in manifest["parents"] if parent["digest"]]
    assert (change["name"], change["was"], change["now"]) == ("reward/judge", was, now)
    assert was != now
    show(tmp_path / "runs" / "tiny")
    assert f"reward/judge {was[:16]} became {now[:16]}" in capsys.readouterr().out
    again = ruled("calls > 99", "--accept-changed", "reward")  # nothing is left to go on with
    assert again.returncode == 2 and "--accept-changed" not in again.stderr
