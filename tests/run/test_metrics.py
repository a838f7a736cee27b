"""metrics.jsonl has each step once, and every line is JSON."""

from __future__ import annotations

import json
from pathlib import Path

from align.run.metrics import JsonLines


def test_cutting_forgets_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in (1, 2):
        lines.append(step, {"loss": 0.5})
    size = lines.size
    lines.append(2, {"eval/loss": 0.25})  # of the same step, but after the checkpoint
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    lines.cut(size)
    lines.append(3, {"loss": 0.25})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.25},
    ]


def test_no_number_becomes_null(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.append(1, {"loss": float("nan"), "kl": float("inf"), "score": 1.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "kl": None,
        "score": 1.5,
    }


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    lines = JsonLines(None)
    lines.append(1, {})
    lines.cut(0)
    assert lines.size == 0
    assert not list(tmp_path.iterdir())
