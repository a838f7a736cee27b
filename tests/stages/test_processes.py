"""Two processes give what one gives: the same rows, the same responses, the same adapters to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, align, make_recipe, write_jsonl
from safetensors.torch import load_file

STAGES = ("sft", "rm", "ppo")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Path, Path]:
    """Run folders of the three stages by one process and by two."""
    found = []
    for count in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes-{count}")
        recipe = make_recipe(folder, tiny_base)
        done = align("run", recipe, "--num-processes", str(count))
        assert done.returncode == 0, done.stderr
        found.append(folder / "runs" / "tiny")
    return found[0], found[1]


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_the_adapters_of_one(runs: tuple[Path, Path], stage: str) -> None:
    one, two = (load_file(run / stage / "final" / "adapter_model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    distance = sum(float((one[k] - two[k]).square().sum()) for k in one) ** 0.5
    size = sum(float(one[k].square().sum()) for k in one) ** 0.5
    assert distance <= 1e-4 * size
    assert size > 0


def test_they_sample_the_same_responses(runs: tuple[Path, Path]) -> None:
    one, two = ([json.loads(line) for line in (run / "ppo" / "held_out.jsonl").open()] for run in runs)
    assert [(a["prompt"], a["reference"], a["policy"]) for a in one] == [
        (b["prompt"], b["reference"], b["policy"]) for b in two
    ]


def test_metrics_are_those_of_the_whole_batch(runs: tuple[Path, Path]) -> None:
    for stage in STAGES:
        _same_metrics(*(run / stage for run in runs))


def _same_metrics(one: Path, two: Path) -> None:
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, two)
    ]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if not name.startswith(("seconds/", "engine/")) and value is not None:
                close = 0.02 if name.endswith("clip_fraction") else 1e-4  # a token at the bound is in or out
                assert b[name] == pytest.approx(value, rel=2e-3, abs=close), (one.name, a["step"], name)


DETAILS = {
    "rewards": [{"run": "this"}, {"function": "judge:length", "weight": 0.1}],
    "responses_per_prompt": 2,
    "score_clip": 1.0,
    "length_penalty": 0.01,
    "kl_coef": 0.2,
    "kl_in": "loss",
    "kl_target": 0.05,
    "kl_horizon": 40,
    "entropy_coef": 0.01,
    "ptx_coef": 0.1,
    "ptx_batch_size": 5,  # an uneven share
    "target_kl": 0.05,
    "critic_warmup": 1,
    "importance_cap": 2.0,
    "evaluate_every": 2,
    "keep": "best",
    "learning_rate": 3e-3,
}


def _from(run: Path, folder: Path, base: Path, **fields: object) -> Path:
    """A recipe whose sft and rm are another folder's run."""
    parents = {"sft": str(run), "rm": str(run), "guard": str(run)}
    recipe = make_recipe(folder, base)
    raw = json.loads(recipe.read_text())
    raw["ppo"] |= {**parents, **fields}
    recipe.write_text(json.dumps(raw))
    (folder / "judge.py").write_text("def length(prompts, responses): return [len(r) for r in responses]\n")
    return recipe


def test_ppos_details_are_of_all_processes(runs: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    folders = []
    for count in (1, 2):
        recipe = _from(runs[0], tmp_path / str(count), tiny_base, **DETAILS)
        done = align("ppo", recipe, "--num-processes", str(count))
        assert done.returncode == 0, done.stderr
        folders.append(recipe.parent / "runs" / "tiny" / "ppo")
    _same_metrics(*folders)
    rows = [json.loads(line) for line in (folders[0] / "metrics.jsonl").open()]
    assert len({row["kl/coef"] for row in rows if "kl/coef" in row}) > 2
    assert {"policy/ptx_loss", "policy/kl_loss", "guard/score", "reward/length"} <= rows[1].keys()
    answers = [
        [(row["reference"], row["policy"]) for row in map(json.loads, (folder / "held_out.jsonl").open())]
        for folder in folders
    ]
    assert answers[0] == answers[1]


BREAKS = """
import os
if os.environ.get("RANK") == "1":
    import align.stages.ppo_update as update
    original = update.policy_loss

    def broken(*arguments):
        loss, stats = original(*arguments)
        return loss * float("nan"), stats

    update.policy_loss = broken
"""


def test_a_nan_on_one_process_stops_both(runs: tuple[Path, Path], tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKS)
    recipe = _from(runs[0], tmp_path / "nan", tiny_base, ppo_epochs=1)
    done = align("ppo", recipe, "--num-processes", "2", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("3 steps in a row could not be applied") == 1
    assert "Traceback" not in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "nan/runs/tiny/ppo/bad-steps.jsonl").open()]
    assert [row["iteration"] for row in rows] == [1, 1, 2]
    assert sorted(one["row"] for row in rows[:2] for one in row["rows"]) == list(range(8))


def test_a_function_that_fails_on_one_process_ends_both(
    runs: tuple[Path, Path], tmp_path: Path, tiny_base: Path
) -> None:
    fields = {"rewards": [{"function": "judge:fails"}], "value_init": "policy"}
    recipe = _from(runs[0], tmp_path, tiny_base, **fields)
    code = "def fails(prompts, responses): return [1.0] * (os.environ['RANK'] == '0') * len(prompts)\n"
    (tmp_path / "judge.py").write_text(f"import os\n{code}")
    done = align("ppo", recipe, "--num-processes", "2")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("gave 0 scores for 4 responses") == 1
    assert "Traceback" not in done.stderr


def test_a_share_without_a_comparison_keeps_the_processes_in_step(
    runs: tuple[Path, Path], tmp_path: Path, tiny_base: Path
) -> None:
    """One ranking of six decides anything, so one process of two has nothing to learn from in any step."""
    metrics, adapters = [], []
    for count in (1, 2):
        folder = tmp_path / str(count)
        recipe = make_recipe(
            folder,
            tiny_base,
            data={"template": "plain", "rankings": {"train": "some.jsonl", "held_out": "other.jsonl"}},
            rm={"steps": 6, "batch_size": 2, "learning_rate": 1e-2, "sft": str(runs[0])},
        )
        tied = [{"prompt": f"a film {i}", "responses": [" good", " dull"], "ranks": [1, 1]} for i in range(5)]
        decided = {"prompt": "the story", "responses": [" loud", " warm", " old"], "ranks": [2, 1, 3]}
        write_jsonl(folder / "some.jsonl", [*tied, decided])
        write_jsonl(folder / "other.jsonl", [{**decided, "prompt": "another story"}])
        done = align("rm", recipe, "--num-processes", str(count))
        assert done.returncode == 0, done.stderr
        run = folder / "runs" / "tiny" / "rm"
        metrics.append([json.loads(line) for line in (run / "metrics.jsonl").open()])
        adapters.append(load_file(run / "final" / "adapter_model.safetensors"))
    losses = [[row["train/loss"] for row in rows if "train/loss" in row] for rows in metrics]
    assert [loss > 0 for loss in losses[0]].count(True) == 2  # once an epoch
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, values in adapters[0].items():
        assert float((values - adapters[1][name]).norm()) <= 1e-4 * float(values.norm()) + 1e-6


def test_accelerate_launch_works_too(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe()
    options = "--cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
    done = subprocess.run(
        [*launcher, "-m", "align", "sft", str(recipe)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (recipe.parent / "runs" / "tiny" / "sft" / "final" / "adapter_model.safetensors").is_file()


def test_an_accelerate_configuration_can_be_named(tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: 'no'\n"
        "num_machines: 1\nnum_processes: 1\nuse_cpu: true\n"
    )
    done = align("sft", tiny_recipe(), "--accelerate-config", config)
    assert done.returncode == 0, done.stderr


def test_a_mistake_is_told_once_with_its_exit_code(tiny_recipe: Callable[..., Path]) -> None:
    done = align("sft", tiny_recipe(sft={"batch_size": 3}), "--num-processes", "2")
    assert done.returncode == 2
    assert done.stderr.count("sft.batch_size is 3") == 1
    assert "Traceback" not in done.stderr
    done = align("ppo", tiny_recipe(), "--num-processes", "2")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_mistake_is_told_where_the_main_process_comes_late(
    tiny_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The launcher ends it before it can speak, because the other one has failed already."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "if os.environ.get('RANK') == '0':\n"
        "    import align.runtime.distributed as d\n"
        "    check = d.check_divisible\n"
        "    d.check_divisible = lambda *a: (time.sleep(30), check(*a))\n"
    )
    recipe = tiny_recipe(sft={"batch_size": 3})
    done = align("sft", recipe, "--num-processes", "2", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("sft.batch_size is 3") == 1


def test_a_missing_accelerate_configuration_is_named(tiny_recipe: Callable[..., Path]) -> None:
    done = align("sft", tiny_recipe(), "--accelerate-config", "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
