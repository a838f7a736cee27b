"""Trackers show what metrics.jsonl says, no step twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align.errors import UserError
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.run import trackers
from align.run.metrics import JsonLines, numbers
from align.run.trackers import check_installed, open_trackers
from align.stages import rm, sft

MANIFEST = {"recipe": {"ppo": {"kl_coef": 0.1}}, "started_at": "2026-01-01T00:00:00+00:00"}


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads, by name."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]
    }


def written(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl, in TensorBoard's float32."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in map(json.loads, path.read_text().splitlines()):
        step = row.pop("step")
        for name, value in row.items():
            if value is not None:
                found.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    return found


def test_no_step_is_there_twice_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    metrics = JsonLines(tmp_path / "metrics.jsonl")
    sizes = {}
    for cut, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # the second start goes on from step 2
        if cut:
            metrics.cut(sizes[cut])
        opened = open_trackers(["tensorboard"], tmp_path, MANIFEST, metrics.rows())
        for step in steps:
            metrics.append(step, {"score": 10.0 * cut + step, "bad": float("nan")})
            opened[0].log(step, numbers({"score": 10.0 * cut + step, "bad": float("nan")}))
            sizes[step] = metrics.size
        opened[0].close()
    assert events(tmp_path / "tensorboard") == {"score": [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]}


def test_every_stage_shows_its_metrics(tiny_recipe: Callable[..., Path], monkeypatch: Any) -> None:
    """Each stage what it wrote itself; ppo samples too, and with a stop between two of its iterations."""
    pytest.importorskip("tensorboard")
    path = tiny_recipe()
    fields = ["run.trackers=[tensorboard]", "ppo.samples_every=2", "ppo.checkpoint_every=2"]
    recipe = load_recipe(path, fields)
    sft.run(recipe)
    rm.run(recipe)
    original = ppo.iterate

    def stops(context: Any, stage: Any, prompts: Any, iteration: int) -> Any:
        if iteration == 3:
            raise OSError("stopped")
        return original(context, stage, prompts, iteration)

    monkeypatch.setattr(ppo, "iterate", stops)
    with pytest.raises(OSError, match="stopped"):
        ppo.run(recipe)
    monkeypatch.setattr(ppo, "iterate", original)
    ppo.run(recipe)
    for stage in ("sft", "rm", "ppo"):
        folder = path.parent / "runs" / "tiny" / stage
        assert events(folder / "tensorboard") == written(folder / "metrics.jsonl")
    assert [step for step, _ in tables(folder / "tensorboard")] == [2, 4]


SAMPLES = [
    {"step": 2, "prompt": "a", "response": "b|c\nd", "score": 1.5, "kl": 0.25, "reference": "<eos>"},
    {"step": 3, "prompt": "a", "response": "not shown", "score": 1.5, "kl": 0.25},
]


def tables(folder: Path) -> list[tuple[int, str]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder)).Reload()
    return [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in found.Tensors("samples/text_summary")
    ]


def test_samples_are_a_table_whatever_they_hold(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    metrics = [{"step": step, "score": 1.0} for step in (1, 2, 3)]
    (tracker,) = open_trackers(["tensorboard"], tmp_path, MANIFEST, metrics, SAMPLES)
    tracker.table(4, [{**SAMPLES[0], "step": 4}])
    tracker.close()
    (step, text), (later, _) = tables(tmp_path / "tensorboard")
    assert (step, later) == (2, 4)
    assert text.splitlines() == [
        "| prompt | response | reference | score | kl |",
        "| --- | --- | --- | --- | --- |",
        "| a | b&#124;c d | &lt;eos&gt; | 1.500 | 0.250 |",
    ]


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run\.trackers: wandb .*`pip install wandb`"):
        check_installed(["wandb"])


class FakeRun:
    """What wandb.init gives; `starting_step`: the first that the server does not have."""

    def __init__(self, starting_step: int) -> None:
        self.starting_step = starting_step
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.closed = False

    def log(self, row: dict[str, Any], step: int) -> None:
        self.logged.append((step, row))

    def finish(self) -> None:
        self.closed = True


@pytest.fixture
def wandb_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], FakeRun]]:
    calls: list[tuple[dict[str, Any], FakeRun]] = []

    def init(**options: Any) -> FakeRun:
        run = FakeRun(3 if options["mode"] == "online" else 0)
        calls.append((options, run))
        return run

    fake = SimpleNamespace(init=init, Error=RuntimeError, Table=lambda columns, data: (columns, data))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


def test_wandb_stays_offline_unless_asked_and_is_one_run_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_calls: list[tuple[dict[str, Any], FakeRun]]
) -> None:
    (first,) = open_trackers(["wandb"], tmp_path / "ppo", MANIFEST, [])
    first.log(1, {"score": 2.0})
    first.close()
    monkeypatch.setenv("WANDB_MODE", "online")
    open_trackers(["wandb"], tmp_path / "ppo", MANIFEST, [])
    open_trackers(["wandb"], tmp_path / "rm", MANIFEST, [])
    (offline, run), (online, _), (other, _) = wandb_calls
    assert (offline["mode"], online["mode"]) == ("offline", "online")
    assert offline["id"] == online["id"] != other["id"]
    assert offline["resume"] == "allow"
    assert run.logged == [(1, {"score": 2.0})] and run.closed


def test_wandb_has_every_step_once_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_calls: list[tuple[dict[str, Any], FakeRun]]
) -> None:
    """A killed process may have written nothing out; the server keeps what it got."""
    metrics = [{"step": step, "score": float(step)} for step in (1, 2, 3)]
    open_trackers(["wandb"], tmp_path, MANIFEST, metrics, SAMPLES)
    (options, run) = wandb_calls[0]
    table = (["prompt", "response", "reference", "score", "kl"], [["a", "b|c\nd", "<eos>", 1.5, 0.25]])
    scores = [(step, {"score": float(step)}) for step in (1, 2, 3)]
    assert run.logged == [scores[0], (2, {"samples": table}), *scores[1:]]
    mine, foreign = (tmp_path / "wandb" / f"offline-run-20260101-{x}" for x in (options["id"], "another"))
    for folder in (mine, foreign):
        folder.mkdir(parents=True)
    open_trackers(["wandb"], tmp_path, MANIFEST, metrics)
    assert foreign.exists() and not mine.exists()
    monkeypatch.setenv("WANDB_MODE", "online")
    open_trackers(["wandb"], tmp_path, MANIFEST, metrics, SAMPLES)
    assert wandb_calls[-1][1].logged == scores[2:]


def test_wandb_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise KeyError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Error=KeyError))
    with pytest.raises(UserError, match=r"wandb cannot start .*No API key configured.*Without WANDB_MODE"):
        open_trackers(["wandb"], tmp_path, MANIFEST, [])
