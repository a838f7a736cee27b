"""The laboratory of over-optimisation: what it counts, by hand, and that it runs, goes on and draws."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ROOT


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("overoptimise_table")


def row(gold: list[float], guard: list[float], held_out: list[float]) -> dict[str, Any]:
    proxy = [i / 10 for i in range(len(gold))]
    kl = [0.01 * (i + 1) ** 2 for i in range(len(gold))]
    curves = {"gold": gold, "guard": guard, "guard_held_out": held_out, "proxy": proxy, "kl": kl}
    return {"every": 20, "curves": curves}


def hill(top: int, end: float, count: int = 100) -> list[float]:
    """From 0 to 2 at `top`, and straight on to `end`."""
    up = [2 * i / top for i in range(top)]
    return up + [2 + (end - 2) * (i + 1) / (count - top) for i in range(count - top)]


def test_a_run_falls_where_it_ends_a_tenth_below_its_peak(table: Any) -> None:
    flat = [1.0] * 100
    fell = table.outcome(row(hill(50, 1.0), flat, [1.0, 3.0, 2.0, 1.0, 0.0]))
    # Around the peak are 1.88, 1.92, 1.96, 1.98, 1.96, 1.94, 1.92, 1.90, 1.88: their mean is 17.34 / 9. On
    # the way down, running means are the values: iteration 63 has 1.74, iteration 64 has 1.72.
    assert fell.peak == pytest.approx(17.34 / 9)
    assert 1.72 < 0.9 * fell.peak < 1.74
    assert fell.fell == 64
    assert fell.best == pytest.approx(1.6, abs=0.01)  # the second evaluation, of iteration 40: 2 * 40 / 50
    assert fell.alarm is None
    held = table.outcome(row(hill(50, 1.9), flat, [0.0] * 5))
    assert held.fell is None


def test_a_dip_on_the_way_up_is_no_fall(table: Any) -> None:
    gold = [0.0] * 10 + [0.5] * 10 + [0.2] * 10 + hill(30, 2.0, 70)
    assert table.outcome(row(gold, [1.0] * 100, [0.0] * 5)).fell is None


def test_the_alarm_is_the_first_iteration_at_which_ppo_warns(table: Any) -> None:
    guard = [0.0 if i < 20 else 5.0 if i < 50 else 1.0 for i in range(100)]
    found = table.outcome(row(hill(50, 0.0), guard, [0.0] * 5)).alarm
    assert 51 <= found <= 60
    assert table.outcome(row(hill(50, 0.0), [1.0] * 100, [0.0] * 5)).alarm is None


def test_the_law_is_found_again(table: Any) -> None:
    kl = [0.1 * i for i in range(1, 200)]
    gold = [math.sqrt(k) * (1.5 - 0.8 * math.log(math.sqrt(k))) for k in kl]
    law = table.fit(kl, gold)
    assert (law.alpha, law.beta, law.r2) == pytest.approx((1.5, 0.8, 1.0))


def test_shares_have_wilsons_interval(table: Any) -> None:
    assert table.share(8, 10) == "8 of 10 (49% to 94%)"  # R: prop.test(8, 10, correct = FALSE)
    assert table.share(0, 10) == "0 of 10 (0% to 28%)"
    assert table.share(0, 0) == "no such run"


def test_gold_scores_by_hand(table: Any) -> None:
    world = importlib.import_module("overoptimise_world")
    for number, (free, cost) in enumerate(world.KINDS.values()):
        gold = world.gold(number)
        one, two, six = gold.scores([letters * world.LENGTH for letters in ("A", "B", "C")])
        a, b, c = (float(gold.worths[world.LETTERS.index(letter)]) for letter in "ABC")
        apart = [(first - second) * world.LENGTH / gold.std for first, second in ((a, b), (b, c))]
        assert [one - two, two - six] == pytest.approx(apart, abs=1e-3)  # the same cost in all three
        spread = (world.LETTERS * 2)[: world.LENGTH]  # each letter once
        worth = sum(float(gold.worths[i]) for i in range(world.LENGTH))
        costs = (gold.scores([spread])[0] - one) * gold.std - worth + a * world.LENGTH
        seldom = world.LENGTH * max(0, 1 - free) ** 2
        assert costs == pytest.approx(cost * ((world.LENGTH - free) ** 2 - seldom), abs=1e-3)


@pytest.mark.slow
def test_it_runs_goes_on_and_draws(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, world = map(importlib.import_module, ("overoptimise", "overoptimise_world"))
    small = {"sizes": "40", "noise": "0", "golds": "1", "iterations": "4", "every": "2", "responses": "8"}
    options = [word for name, value in small.items() for word in (f"--{name}", value)]
    file, drawn = tmp_path / "runs.jsonl", tmp_path / "curves.svg"
    monkeypatch.setenv(world.GOLD, "")  # put back when the test ends
    monkeypatch.setattr(world, "BASE_STEPS", 20)
    monkeypatch.setattr(lab, "RM_STEPS", (4, 4))

    def lab_says(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["overoptimise.py", *words])
        lab.main()
        return capsys.readouterr().out

    lab_says("run", str(file), *options)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [one["arm"] for one in rows] == ["free", "protected", "held", "again"]
    for one in rows:
        lengths = {name: len(values) for name, values in one["curves"].items()}
        assert lengths == {"kl": 4, "proxy": 4, "gold": 4, "guard": 4, "guard_held_out": 2}
    # Runs of one seed begin as the same policy.
    first = [one["curves"]["gold"][0] for one in rows]
    assert first[0] == first[1] == first[2] != first[3]

    file.write_text("".join(json.dumps(one) + "\n" for one in rows[:3]))  # interrupted before the last
    lab_says("run", str(file), *options)
    again = [json.loads(line) for line in file.read_text().splitlines()]
    assert again[3]["curves"] == rows[3]["curves"]

    said = lab_says("table", str(file), "--figure", str(drawn))
    assert "| seen | 40 | 0% | free | 1 |" in said
    assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")
