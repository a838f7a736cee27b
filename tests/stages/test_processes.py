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
        one, two = (
            [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
            for run in runs
        )
        assert [row["step"] for row in one] == [row["step"] for row in two]
        for a, b in zip(one, two, strict=True):
            assert a.keys() == b.keys()
            for name, value in a.items():
                if not name.startswith(("seconds/", "engine/")) and value is not None:
                    assert b[name] == pytest.approx(value, rel=2e-3, abs=1e-4), (stage, a["step"], name)


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
