"""A stage that is killed and started again ends with the same bits as one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, TIMED, align, make_recipe
from safetensors.torch import load_file, save_file
from tiny_bases import make_base

from align.recipe.load import load_recipe
from align.run.files import sha256
from align.stage_table import STAGES

# Runs a stage and kills its own process at the n-th call of a function, before or after the call.
KILLER = """
import importlib, os, signal, sys
from pathlib import Path
stage, recipe, where, count, when = sys.argv[1:]
module, _, name = where.rpartition(":")
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, last), 0
def wrapped(*a, **k):
    global calls
    calls += 1
    if calls == int(count) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*a, **k)
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, last, wrapped)
from align.recipe.load import load_recipe
from align.stage_table import STAGES
importlib.import_module(STAGES[stage].module).run(load_recipe(Path(recipe)))
"""


def _kill(stage: str, recipe: Path, where: str, count: int, when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, stage, str(recipe), where, str(count), when],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, f"it was not killed: {done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder with a recipe and the uninterrupted run of all three stages."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = make_recipe(
        folder,
        tiny_base,
        lora={"dropout": 0.1},
        sft={"microbatch_size": 2, "evaluate_every": 2},
        rm={"evaluate_every": 2, "microbatch_tokens": 48},
        ppo={
            "evaluate_every": 1,
            "keep": "best",
            "samples_every": 2,
            "kl_target": 0.5,  # kl_coef moves from iteration to iteration
            "kl_horizon": 40,
            "ptx_coef": 0.1,
            "reward_shape": "sigmoid",
            "rewards": [{"run": "this"}, {"function": "lengths:count", "weight": 0.1}],
        },
    )
    (folder / "lengths.py").write_text("def count(prompts, responses): return list(map(len, responses))\n")
    for stage in STAGES:
        done = align(stage, recipe)
        assert done.returncode == 0, done.stderr
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def _metrics(stage_folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (stage_folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def _copy_without(finished: Path, stage: str, target: Path) -> Path:
    """The same recipe and the earlier stages, elsewhere; `stage` has not run there."""
    shutil.copytree(finished, target, dirs_exist_ok=True)
    for later in list(STAGES)[list(STAGES).index(stage) :]:
        shutil.rmtree(target / "runs" / "tiny" / later)
    recipe = target / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(finished), str(target)))
    return recipe


def test_a_base_with_experts_goes_from_stage_to_stage_and_resumes(tmp_path: Path, tiny_base: Path) -> None:
    base = make_base("qwen3_moe", tiny_base, tmp_path / "base")
    finals = {}
    for name in ("whole", "killed"):
        recipe = make_recipe(tmp_path / name, base, lora={"targets": "all-linear", "layers": 2})
        for stage, where in (
            ("sft", "align.stages.trainer:ResumableTrainer.training_step"),
            ("rm", "align.stages.ranking_gradients:scores_above"),
        ):
            if name == "killed":
                _kill(stage, recipe, where, 5, "after")
            done = align(stage, recipe)
            assert done.returncode == 0, done.stderr
            finals[name, stage] = _files(tmp_path / name / "runs" / "tiny" / stage / "final")
            if stage == "sft":
                assert "load-balancing loss" in " ".join(done.stdout.split())
    for stage in ("sft", "rm"):
        assert finals["whole", stage] == finals["killed", stage]
    names = load_file(tmp_path / "whole" / "runs" / "tiny" / "rm" / "final" / "adapter_model.safetensors")
    assert any(".experts." in name for name in names)


def test_dora_and_trained_embeddings_go_on_from_a_kill_with_the_same_bits(
    tmp_path: Path, tiny_base: Path
) -> None:
    finals = {}
    lora = {"use_dora": True, "modules_to_save": ["embed_tokens"], "dropout": 0.1}
    for name in ("whole", "killed"):
        recipe = make_recipe(tmp_path / name, tiny_base, lora=lora)
        for stage, where, count in (
            ("sft", "align.stages.trainer:ResumableTrainer.training_step", 5),
            ("rm", "align.stages.ranking_gradients:scores_above", 6),
            ("ppo", "align.ppo.update:policy_loss", 9),
        ):
            if name == "killed":
                _kill(stage, recipe, where, count, "after")
                assert any((recipe.parent / "runs" / "tiny" / stage / "checkpoints").glob("step-*"))
            import_module(STAGES[stage].module).run(load_recipe(recipe))
            finals[name, stage] = _files(tmp_path / name / "runs" / "tiny" / stage / "final")
    for stage in ("sft", "rm", "ppo"):
        assert finals["whole", stage] == finals["killed", stage]


@pytest.mark.parametrize(
    ("stage", "where", "count", "when"),
    [
        ("sft", "align.run.metrics:JsonLines.append", 5, "after"),
        ("sft", "align.stages.trainer:ResumableTrainer.training_step", 6, "after"),  # half of a step's rows
        ("sft", "align.stages.sft:total", 2, "before"),  # in the second evaluation
        ("sft", "align.run.checkpoint:save_file", 4, "after"),  # a checkpoint half written
        ("sft", "align.models.adapters:save_file", 1, "after"),  # while final/ is written
        ("rm", "align.run.metrics:JsonLines.append", 3, "after"),
        ("rm", "align.stages.rm:evaluate_quickly", 2, "before"),  # in the second evaluation
        ("rm", "align.models.adapters:save_file", 2, "after"),
        ("rm", "align.stages.ranking_gradients:scores_above", 8, "after"),  # between two microbatches
        ("rm", "align.run.checkpoint:save_file", 3, "after"),  # a checkpoint half written
        ("ppo", "align.ppo.train:score_rollout", 3, "before"),  # sampled, not yet updated
        (
            "ppo",
            "align.ppo.update:policy_loss",
            9,
            "after",
        ),  # before an update's backward
        ("ppo", "align.ppo.train:summary", 2, "before"),  # in the second evaluation
        ("ppo", "align.ppo.train:prune_best", 2, "before"),  # saved, the best not yet pruned
        ("ppo", "align.run.checkpoint:save_file", 6, "after"),
        ("ppo", "align.models.adapters:save_file", 2, "after"),  # while final/ is written
    ],
)
def test_killed_and_started_again_gives_the_same_bits(
    finished: Path, tmp_path: Path, stage: str, where: str, count: int, when: str
) -> None:
    recipe = _copy_without(finished, stage, tmp_path / "again")
    _kill(stage, recipe, where, count, when)
    done = align(stage, recipe)
    assert done.returncode == 0, done.stderr
    ours, theirs = tmp_path / "again" / "runs" / "tiny" / stage, finished / "runs" / "tiny" / stage
    assert _files(ours / "final") == _files(theirs / "final")
    assert _metrics(ours) == _metrics(theirs)
    if stage == "ppo":
        assert (ours / "samples.jsonl").read_text() == (theirs / "samples.jsonl").read_text()


def test_ppo_with_its_defaults_gives_the_same_bits_too(finished: Path, tmp_path: Path) -> None:
    """The runs above have a detail of each kind; this one has what most people run."""
    where = ("align.ppo.update:policy_loss", 9, "after")
    folders = [tmp_path / name for name in ("whole", "again")]
    for folder in folders:
        recipe = _copy_without(finished, "ppo", folder)
        raw = json.loads(recipe.read_text())
        sizes = ("rollout_batch_size", "minibatch_size", "microbatch_tokens", "max_response_tokens")
        raw["ppo"] = {key: raw["ppo"][key] for key in sizes} | {"iterations": 4}
        recipe.write_text(json.dumps(raw))
        if folder.name == "again":
            _kill("ppo", recipe, *where)
        done = align("ppo", recipe)
        assert done.returncode == 0, done.stderr
    theirs, ours = (folder / "runs" / "tiny" / "ppo" for folder in folders)
    assert _files(ours / "final") == _files(theirs / "final")
    assert _metrics(ours) == _metrics(theirs)


def test_another_seed_gives_other_bits(finished: Path, tmp_path: Path) -> None:
    """The comparison above can fail."""
    recipe = _copy_without(finished, "ppo", tmp_path / "again")
    assert (
        align(
            "rm", recipe, "--set", "run.seed=1", "--restart", "--set", f"rm.sft={finished}/runs/tiny"
        ).returncode
        == 0
    )
    ours = tmp_path / "again" / "runs" / "tiny" / "rm" / "final"
    assert _files(ours) != _files(finished / "runs" / "tiny" / "rm" / "final")


def test_a_finished_stage_is_not_run_again(finished: Path, tmp_path: Path) -> None:
    recipe = _copy_without(finished, "ppo", tmp_path / "again")
    before = _files(tmp_path / "again" / "runs" / "tiny" / "rm")
    done = align("rm", recipe)
    assert done.returncode == 0
    assert "rm is finished" in done.stdout
    assert _files(tmp_path / "again" / "runs" / "tiny" / "rm") == before


def test_a_changed_recipe_is_refused_with_the_difference(finished: Path, tmp_path: Path) -> None:
    recipe = _copy_without(finished, "ppo", tmp_path / "again")
    done = align("rm", recipe, "--set", "rm.learning_rate=0.5")
    assert done.returncode == 2
    assert "rm.learning_rate: was 0.01, is 0.5" in done.stderr
    assert "--restart" in done.stderr


def test_harmless_changes_pass(finished: Path, tmp_path: Path) -> None:
    recipe = _copy_without(finished, "ppo", tmp_path / "again")
    assert align("rm", recipe, "--set", "rm.checkpoint_every=1", "--set", "run.keep=5").returncode == 0


def test_restart_sets_the_old_folder_aside(finished: Path, tmp_path: Path) -> None:
    recipe = _copy_without(finished, "ppo", tmp_path / "again")
    run = tmp_path / "again" / "runs" / "tiny"
    before = _files(run / "rm" / "final")
    done = align("rm", recipe, "--set", "rm.learning_rate=0.02", "--restart")
    assert done.returncode == 0, done.stderr
    (aside,) = run.glob("rm.before-*")
    assert _files(aside / "final") == before
    assert _files(run / "rm" / "final") != before


def test_a_stage_before_its_parent_exits_with_3(tiny_recipe: Callable[..., Path]) -> None:
    for stage, earlier in (("rm", "sft"), ("ppo", "sft")):
        done = align(stage, tiny_recipe())
        assert done.returncode == 3
        assert f"align {earlier}" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tiny_recipe().parent / "runs").exists()


def test_an_altered_parent_is_refused(finished: Path, tmp_path: Path) -> None:
    recipe = _copy_without(finished, "ppo", tmp_path / "again")
    adapter = tmp_path / "again" / "runs" / "tiny" / "sft" / "final" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    adapter.write_bytes(content)
    done = align("ppo", recipe)
    assert done.returncode == 2
    assert "SHA-256" in done.stderr


def test_a_reward_model_with_another_head_is_another_parent(finished: Path, tmp_path: Path) -> None:
    """Centred on other demonstrations, say: the adapter is the same, every score is not."""
    shutil.copytree(finished, tmp_path / "again")
    recipe = tmp_path / "again" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(finished), str(tmp_path / "again")))
    folder = tmp_path / "again" / "runs" / "tiny" / "rm"
    head = load_file(folder / "final" / "head.safetensors")
    save_file({"weight": head["weight"] + 1}, folder / "final" / "head.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["final"]["head.safetensors"] = sha256(folder / "final" / "head.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = align("ppo", recipe)
    assert done.returncode == 2
    assert "lineage.rm_head: was" in done.stderr
