"""Trackers show what metrics.jsonl says, no step twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import align

from align.errors import UserError
from align.runtime import trackers
from align.runtime.metrics import JsonLines
from align.runtime.trackers import check_installed, numbers, open_trackers

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


def test_every_stage_shows_its_metrics(tiny_recipe: Callable[..., Path]) -> None:
    """Switched on for ppo only after sft and rm have run without: each shows what it wrote itself."""
    pytest.importorskip("tensorboard")
    path = tiny_recipe()
    for stage in ("sft", "rm", "ppo"):
        done = align(stage, path, "--set", "run.trackers=[tensorboard]")
        assert done.returncode == 0, done.stderr
        folder = path.parent / "runs" / "tiny" / stage
        assert events(folder / "tensorboard") == written(folder / "metrics.jsonl")


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run\.trackers: wandb .*`pip install wandb`"):
        check_installed(["wandb"])


def test_wandb_stays_offline_unless_asked_and_is_one_run_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, float]]] = []

    def init(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(
            log=lambda row, step: logged.append((step, row)), finish=lambda: calls.append({})
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (first,) = open_trackers(["wandb"], tmp_path / "ppo", MANIFEST, [])
    first.log(1, {"score": 2.0})
    first.close()
    monkeypatch.setenv("WANDB_MODE", "online")
    open_trackers(["wandb"], tmp_path / "ppo", MANIFEST, [])
    open_trackers(["wandb"], tmp_path / "rm", MANIFEST, [])
    offline, closed, online, other = calls
    assert (offline["mode"], online["mode"]) == ("offline", "online")
    assert offline["id"] == online["id"] != other["id"]
    assert offline["resume"] == "allow"
    assert logged == [(1, {"score": 2.0})] and closed == {}
