"""The load benchmark, small: with kills and faults nothing that was given is lost, stale or doubled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
pytest.importorskip("httpx2")

from labeling_app import POSTGRES  # noqa: E402

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "labeling.py"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_killed_under_load_nothing_is_lost_or_doubled(database: str) -> None:
    if database == "postgresql" and not POSTGRES:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    small = ["--labelers", "6", "--seconds", "6", "--think", "0.1", "--tasks", "600", "--faults", "0.5"]
    command = [sys.executable, str(BENCHMARK), *small, "--database", database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "lost 0, stale 0, doubled 0, slots held twice 0, items over overlap 0, of a wrong time 0"
        in done.stdout
    )
    assert "4 labelers' clocks were ten minutes off" in done.stdout
    assert "faults: none" not in done.stdout
    assert "killed 2 times" in done.stdout and "unexpected answers: none" in done.stdout
