"""SIGTERM and Ctrl-C: the step at hand ends or is given up, what is done is saved, and nothing is lost."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TIMED, make_recipe

from align.errors import Terminated
from align.recipe.load import load_recipe
from align.stage_table import STAGES

SECTIONS: dict[str, dict[str, Any]] = {
    "lora": {"dropout": 0.1},
    "sft": {"microbatch_size": 2, "checkpoint_every": 100, "evaluate_every": 2},
    "rm": {"checkpoint_every": 100, "evaluate_every": 2},
    "ppo": {"checkpoint_every": 100, "evaluate_every": 2, "kl_target": 0.5, "kl_horizon": 40},
}


def _run(stage: str, recipe: Path, *overrides: str) -> Path:
    loaded = load_recipe(recipe, overrides)
    importlib.import_module(STAGES[stage].module).run(loaded)
    return loaded.run.path / stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The run that nothing interrupted."""
    recipe = make_recipe(tmp_path_factory.mktemp("whole"), tiny_base, **SECTIONS)
    for stage in STAGES:
        _run(stage, recipe)
    return load_recipe(recipe).run.path


def _signal_at(where: str, count: int, number: int, patch: pytest.MonkeyPatch) -> None:
    """Send this process a signal at the count-th call of a function, before it runs."""
    module, _, name = where.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, last), [0]

    def called(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), number)
        return original(*arguments, **named)

    patch.setattr(owner, last, called)


@pytest.mark.parametrize(
    ("stage", "where", "count", "saved"),
    [
        ("sft", "trl:SFTTrainer.compute_loss", 6, 2),  # between the microbatches of step 3
        ("sft", "torch.optim:AdamW.step", 3, 3),  # in the update itself
        ("sft", "trl.trainer.sft_trainer:DataCollatorForLanguageModeling.__call__", 9, 2),  # evaluating
        ("rm", "align.stages.ranking_gradients:batch_loss", 3, 2),
        ("rm", "align.stages.rm:update", 3, 3),
        ("rm", "align.stages.rm:evaluate_quickly", 1, 2),
        ("ppo", "align.ppo.train:score_rollout", 2, 1),  # sampled, not yet updated
        ("ppo", "align.ppo.update:policy_loss", 6, 2),  # within the updates of iteration 2
        ("ppo", "align.ppo.train:summary", 1, 2),  # evaluating
    ],
)
def test_what_is_done_is_saved_and_the_end_is_the_same(
    whole: Path, tmp_path: Path, tiny_base: Path, stage: str, where: str, count: int, saved: int
) -> None:
    recipe = make_recipe(tmp_path, tiny_base, **SECTIONS)
    overrides = (f"rm.sft={whole}", f"ppo.sft={whole}", f"ppo.rm={whole}")
    number, error = (signal.SIGINT, KeyboardInterrupt) if count % 2 else (signal.SIGTERM, Terminated)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # pytest is a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        _signal_at(where, count, number, patch)
        _run(stage, recipe, *overrides)
    assert signal.getsignal(number) is before
    folder = load_recipe(recipe).run.path / stage
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{saved:06d}"]
    _run(stage, recipe, *overrides)
    assert _result(folder) == _result(whole / stage)


def _result(folder: Path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    final = {p.name: p.read_bytes() for p in (folder / "final").rglob("*.safetensors")}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return final, [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def test_told_before_the_first_step_nothing_is_saved(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Terminated):
        _signal_at("trl:SFTTrainer.compute_loss", 1, signal.SIGTERM, patch)
        _run("sft", recipe)
    assert not (load_recipe(recipe).run.path / "sft" / "checkpoints").exists()


# Rank 1 alone is told, at its third step.
ONE_RANK = """
import os
if os.environ.get("RANK") == "1":
    import signal, align.stages.trainer as t
    step = t.ResumableTrainer.training_step
    def told(self, *arguments, **named):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments, **named)
    t.ResumableTrainer.training_step = told
"""


@pytest.mark.parametrize("who", ["one rank", "the launcher"])
def test_all_processes_stop_at_the_same_step(
    tiny_recipe: Callable[..., Path], tmp_path: Path, who: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ONE_RANK if who == "one rank" else "")
    steps = 6 if who == "one rank" else 100_000
    recipe = tiny_recipe(sft={"steps": steps, "checkpoint_every": 100_000})
    folder = load_recipe(recipe).run.path / "sft"
    command = [sys.executable, "-m", "align", "sft", str(recipe), "--num-processes", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while who == "the launcher" and process.poll() is None:
            metrics = folder / "metrics.jsonl"
            if metrics.exists() and metrics.read_text().count("\n") > 2:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.05)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 143, err
    assert "stopped: the same command goes on from the last checkpoint" in err
    (saved,) = (folder / "checkpoints").iterdir()
    step = int(saved.name.partition("-")[2])
    assert f"sft stops after step {step}, which is saved" in out
    assert step == len((folder / "metrics.jsonl").read_text().splitlines())
    assert who != "one rank" or step == 2 or step == 3
