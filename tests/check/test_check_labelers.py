"""`align check` says which labelers may be guessing, and refuses weights that cannot be known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from rich.console import Console

from align.check.result import Finding, Report
from align.check.run import check
from align.check.show import show
from align.recipe.load import load_recipe

Checked = Callable[..., Report]


@pytest.fixture
def checked(tiny_recipe: Callable[..., Path], tmp_path: Path) -> Checked:
    """Check rankings of pairs, for each labeler how often they are right; with `source` beside train."""

    def make(people: dict[str, float], pairs: int = 80, **source: Any) -> Report:
        chance, rows = random.Random(0), []
        for i in range(pairs):
            for name, right in people.items():
                ranks = [1, 2] if chance.random() < right else [2, 1]
                rows.append({"prompt": f"film {i}", "responses": [" warm", " dull"], "ranks": ranks})
                rows[-1]["labeler"] = name
        path = tiny_recipe()
        write_jsonl(tmp_path / "train.jsonl", rows)
        raw = json.loads(path.read_text())
        raw["data"]["rankings"] = {"train": "train.jsonl", "held_out": 0.1, **source}
        path.write_text(json.dumps(raw))
        return check(load_recipe(path), str(path))

    return make


def found(report: Report, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]


def shown(report: Report) -> str:
    console = Console(file=StringIO(), width=200)
    show(report, "check.json", console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


TEAM = {"ann": 0.95, "bob": 0.9, "cyd": 0.9, "dan": 0.5, "eve": 0.1}


def test_who_guesses_and_who_is_the_wrong_way_round_is_told(checked: Checked) -> None:
    report = checked(TEAM)
    (guessing,) = found(report, "labelers_at_chance")
    assert guessing.severity == "warning" and guessing.where == "data.rankings.train"
    assert "dan (" in guessing.message and "comparisons right, 95%: " in guessing.message
    assert not any(f"{name} (" in guessing.message for name in ("ann", "bob", "cyd", "eve"))
    assert "weight_by: reliability their rankings teach little" in guessing.message
    (turned,) = found(report, "labelers_reversed")
    assert "eve (" in turned.message and "1 for the best?" in turned.message
    text = shown(report)
    assert "ordered right" in text and "pairs that several judged" in text
    assert report.exit_code == 0
    right = {one.name: one.accuracy.value for one in report.reliability.labelers}
    assert right["ann"] is not None and right["ann"] > 0.85
    assert not found(checked(TEAM, weight_by="reliability"), "reliability_unknown")


def test_a_good_team_and_people_of_whom_little_is_known_are_not_accused(checked: Checked) -> None:
    good = dict.fromkeys(("ann", "bob", "cyd"), 0.85)
    for report in (checked(good), checked({**good, "dan": 0.5}, pairs=6)):
        assert not found(report, "labelers_at_chance") and not found(report, "labelers_reversed")


def test_weights_that_cannot_be_known_are_an_error_as_training_refuses_them(checked: Checked) -> None:
    report = checked({"ann": 0.9, "bob": 0.8}, weight_by="reliability")
    (unknown,) = found(report, "reliability_unknown")
    assert unknown.severity == "error" and unknown.where == "data.rankings.weight_by"
    assert "nothing says which one is right" in unknown.message and report.exit_code == 2
    assert not found(checked({"ann": 0.9, "bob": 0.8}), "reliability_unknown")
    (alone,) = found(checked({"ann": 0.9}, weight_by="reliability"), "reliability_unknown")
    assert "ann alone made the rankings" in alone.message


def test_the_time_that_people_took_is_added_up(checked: Checked, tiny_recipe: Callable[..., Path]) -> None:
    assert "people's time" not in shown(checked(TEAM, pairs=20))
    path = tiny_recipe()
    file = path.parent / "rankings.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    timed = [row | {"seconds": 90.5} if i % 2 else row for i, row in enumerate(rows)]
    write_jsonl(file, timed)
    report = check(load_recipe(path), str(path))
    labels = [one.labels for one in report.sets if one.labels]
    assert sum(one.timed for one in labels) == len(rows) // 2
    assert sum(one.seconds for one in labels) == 90.5 * (len(rows) // 2)
    assert "people's time, train" in shown(report)
