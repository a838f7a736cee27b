"""metrics.jsonl has each step once, and every line is JSON."""

from __future__ import annotations

import json
from pathlib import Path

from align.runtime.metrics import JsonLines


def test_rewinding_forgets_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in (1, 2, 3):
        lines.append(step, {"loss": 0.5})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    lines.rewind(2)
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
    lines.rewind(0)
    assert not list(tmp_path.iterdir())
