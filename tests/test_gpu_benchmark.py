"""benchmarks/gpu on this CPU, with its smallest shape: that it runs, goes on, and prints what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu/run.py"), "--shapes", "tiny", "--keep"]
    command += ["--results", str(folder / "results"), "--work", str(folder / "work"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def test_it_measures_goes_on_and_prints_a_table(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "machine", "rm-tiny-k4-packed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"bases and runs lie in {tmp_path / 'work'}\n")  # for a server's base
    found = json.loads((tmp_path / "results/results.json").read_text())
    assert list(found) == ["machine", "sft-tiny", "rm-tiny-k4-packed"]  # sft because rm needs it
    assert found["rm-tiny-k4-packed"]["rankings/s"] > 0
    assert found["rm-tiny-k4-packed"]["prompts shared"] == 1
    table = (tmp_path / "results/table.md").read_text()
    assert "| rm-tiny-k4-packed | rankings/s " in table
    assert "train " in table  # the share of a matrix product's rate

    (tmp_path / "results/sft-tiny.json").write_text(json.dumps({"failed": "out of memory"}))
    again = run(tmp_path, "--only", "rm-tiny-k9-packed")
    assert again.returncode == 1
    assert "sft-tiny: done before" in again.stdout
    found = json.loads((tmp_path / "results/results.json").read_text())
    assert found["rm-tiny-k9-packed"] == {"failed": "sft-tiny did"}


def test_an_unknown_part_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "sft-9b")
    assert done.returncode == 1
    assert "parts are machine, tests, sft-tiny" in done.stderr


def test_large_shapes_are_not_made_where_there_is_no_gpu(tmp_path: Path) -> None:
    """`make gpu` on a laptop would write 16 GB of random weights and train on them for days."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu/run.py"), "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    assert "torch sees no GPU here" in done.stderr
    assert "--shapes tiny" in done.stderr
    assert not list(tmp_path.iterdir())
