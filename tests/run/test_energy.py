"""Joules of meters that begin again, of none at all, and of cards that go away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from align.run.energy import WATTS_A_CORE, Energy


def package(folder: Path, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "energy_uj").write_text(f"{microjoules}\n")
    (place / "max_energy_range_uj").write_text(f"{most}\n")
    return place


def test_processors_are_added_up_and_counters_begin_again(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 999_000_000)
    package(tmp_path, "intel-rapl:1", 5_000_000)
    package(tmp_path, "intel-rapl:0:0", 7)  # a part of the first
    energy = Energy(rapl=tmp_path)
    package(tmp_path, "intel-rapl:0", 2_000_000)  # 3 J on, over the end of its range
    package(tmp_path, "intel-rapl:1", 9_000_000)  # 4 J on
    package(tmp_path, "intel-rapl:0:0", 10**8)
    assert energy() == {"energy/cpu": pytest.approx(7.0)}
    assert energy() == {"energy/cpu": 0.0}


def test_cards_are_told_beside_processors_until_they_go_away(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 0)
    joules = [100.0, 150.0]
    energy = Energy(lambda: joules.pop(0), tmp_path)
    assert energy() == {"energy/gpu": 50.0, "energy/cpu": 0.0}
    assert energy() == {"energy/cpu": 0.0}  # the list is empty: the meter raises


def test_without_meters_an_estimate_says_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = [10.0, 12.5]
    monkeypatch.setattr(time, "process_time", lambda: spent.pop(0))
    assert Energy(rapl=tmp_path)() == {"energy/cpu_estimated": 2.5 * WATTS_A_CORE}


def test_meters_that_only_root_reads_are_none(tmp_path: Path) -> None:
    (package(tmp_path, "intel-rapl:0", 0) / "energy_uj").unlink()
    assert "energy/cpu_estimated" in Energy(rapl=tmp_path)()
