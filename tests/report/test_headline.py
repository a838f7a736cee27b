"""The page's first sentence says what the files say, and no more; differences and costs beside it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from align.report import page
from align.report.costs import costs, people
from align.report.differences import differences
from align.report.documents import Check
from align.report.headline import headline, preferred
from align.report.page import LivePage, write_report
from align.report.read import read_run


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    without = shutil.ignore_patterns("check.json")  # other tests may have checked its recipe
    return shutil.copytree(finished_run, tmp_path / "run", ignore=without)


def said(folder: Path) -> dict[str, str]:
    return {claim.section: claim.text for claim in headline(read_run(folder))}


def share(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "count": 100, "prompts": 50}


def answers(run: Path, gains: list[float], **more: float) -> None:
    rows = [
        {
            "prompt": f"p{i}",
            "reference": "a",
            "policy": "b",
            "reference_score": 1.0,
            "policy_score": 1.0 + gain,
        }
        for i, gain in enumerate(gains)
    ]
    write_jsonl(run / "ppo" / "held_out.jsonl", [row | more for row in rows])


def evaluation(run: Path, **parts: Any) -> None:
    (run / "rm" / "evaluation.json").write_text(json.dumps({"accuracy": share(0.7, 0.6, 0.8), **parts}))


def test_a_gain_of_scores_is_a_share_of_people_by_the_fitted_temperature(run: Path) -> None:
    # sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4, so with a temperature of 2: (3/4 + 3/4 + 3/4 + 1/4) / 4.
    gain = 2 * math.log(3)
    answers(run, [gain, gain, gain, -gain])
    evaluation(run, calibration={"temperature": 2.0})
    assert said(run)["answers"].startswith("after PPO people would prefer 62 of 100 (")
    assert "if the reward model that PPO was trained on is right" in said(run)["answers"]
    # A temperature at the end of what was tried says that scores mean nothing: only who is higher counts.
    evaluation(run, calibration={"temperature": 2.0, "at_bound": True})
    assert said(run)["answers"].startswith("after PPO 75 of 100 (")
    assert "people" not in said(run)["answers"]


@pytest.mark.parametrize(("gain", "expected"), [(2000.0, 1.0), (-2000.0, 0.0), (0.0, 0.5)])
def test_preferences_neither_overflow_nor_lose_ties(gain: float, expected: float) -> None:
    assert preferred(gain, 1.0) == preferred(gain, None) == expected


def test_the_guard_is_asked_before_the_model_that_trained(run: Path) -> None:
    answers(run, [5.0, 5.0, 5.0, 5.0], reference_guard=0.5, policy_guard=0.25)
    assert said(run)["answers"].startswith("after PPO 0 of 100 (0 to ")
    assert "not trained on" in said(run)["answers"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (share(0.77, 0.72, 0.81), "as often, within the intervals, as"),
        (share(0.6, 0.55, 0.65), "less often than"),
        (share(0.95, 0.92, 0.97), "more often than"),
        ({"value": 0.77}, "about as often as"),
    ],
)
def test_the_reward_model_stands_beside_people(run: Path, model: dict[str, float], words: str) -> None:
    evaluation(run, people={"agreement": share(0.8, 0.75, 0.85), "model": model})
    assert f"agrees with people {words} people with each other" in said(run)["rm"]


def test_over_optimisation_is_told_as_it_was_watched(run: Path) -> None:
    metrics = run / "ppo" / "metrics.jsonl"
    assert "nothing watched" in said(run)["ppo"]

    def watched(guard: list[float]) -> str:
        rows = [
            {"step": i + 1, "reward/score": i / 10 + i % 2 / 100, "guard/score": value}
            for i, value in enumerate(guard)
        ]
        write_jsonl(metrics, rows)
        return said(run)["ppo"]

    assert watched([0.0] * 5) == "too few iterations to see over-optimisation (5 of at least 20)"
    rises = [i / 10 + i % 2 / 100 for i in range(60)]
    assert watched(rises).startswith("no sign of over-optimisation")
    falls = watched(rises[:30] + [3.0 - i / 10 + i % 2 / 100 for i in range(30)])
    assert falls.startswith("over-optimised: by iteration 4")  # ten iterations after the peak at 30


def test_the_sentence_is_on_the_page_and_links_to_its_evidence(run: Path) -> None:
    html = write_report(run).read_text(encoding="utf-8")
    assert '<p class="headline"><a href="#answers">After PPO ' in html
    shutil.rmtree(run / "ppo")
    shutil.rmtree(run / "rm")
    write_jsonl(
        run / "sft" / "metrics.jsonl", [{"step": 1, "eval/loss": 4.5}, {"step": 9, "eval/loss": 3.25}]
    )
    assert said(run) == {
        "sft": "fine-tuning took the loss on held-out demonstrations from 4.50 to 3.25 nats a token"
    }
    shutil.rmtree(run / "sft")
    assert headline(read_run(run)) == []


def test_what_is_gone_and_what_is_new_is_marked_and_escaped() -> None:
    marked = differences("The film is <b>bad</b>, sadly.", "The film is <b>good</b>, sadly.")
    assert marked == (
        "The film is &lt;b&gt;<del>bad</del>&lt;/b&gt;, sadly.",
        "The film is &lt;b&gt;<ins>good</ins>&lt;/b&gt;, sadly.",
    )
    assert differences("one two three", "four five six") is None  # only spaces in common
    assert differences("", "four") is None
    assert differences({"no": "text"}, "four") is None
    assert differences("a " * 5000, "a " * 5001) is None  # endless


def test_where_the_time_went_is_added_up_by_part(run: Path) -> None:
    rows = [
        {
            "step": i,
            "seconds/sample": 30.0,
            "seconds/update": 60.0,
            "seconds/other": 10.0,
            "energy/cpu": 1200.0,
        }
        for i in (1, 2, 3)
    ]
    write_jsonl(run / "ppo" / "metrics.jsonl", rows)
    found = costs(read_run(run))
    at = found.index(("PPO", "", "5 min", "", "1 Wh"))
    assert found[at + 1 : at + 4] == [
        ("", "sampling", "2 min", "30.0%", ""),
        ("", "updating", "3 min", "60.0%", ""),
        ("", "evaluation, checkpoints, the rest", "30 s", "10.0%", ""),
    ]


def test_the_time_of_people_is_told_where_records_say_it(run: Path) -> None:
    assert people(read_run(run)) == ""
    labels = {"timed": 90, "seconds": 7200.0}
    sets = [{"kind": "rankings", "side": "train", "records": 100, "labels": labels}]
    (run / "check.json").write_text(json.dumps({"sets": sets}))
    assert Check.model_validate({"sets": sets}).sets[0].labels.timed == 90
    assert people(read_run(run)) == "People took 2 h 00 min for 90 of the 100 rankings."


def test_a_stage_at_work_writes_its_page_once_a_minute(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(page.time, "monotonic", lambda: now[0])
    report, told = run / "report.html", list[str]()
    live = LivePage(run, told.append)
    for at, written in ((100.0, True), (130.0, False), (161.0, True)):
        report.unlink(missing_ok=True)
        now[0] = at
        live(1, {})
        assert report.exists() == written
    manifest = json.loads((run / "ppo" / "manifest.json").read_text())
    (run / "ppo" / "manifest.json").write_text(json.dumps(manifest | {"finished": False}))
    assert 'http-equiv="refresh" content="60"' in write_report(run).read_text()

    def fails(*_: Any) -> str:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(page, "render", fails)
    for at in (300.0, 400.0):
        now[0] = at
        live(2, {})
    assert told == ["the report is not written while this stage is at work (ZeroDivisionError: oh)"]


ESTIMATE = {"value": 0.64, "low": 0.55, "high": 0.72, "count": 120, "prompts": 60}


def test_what_people_or_a_judge_said_comes_before_what_models_say(run: Path) -> None:
    folder = run / "evaluation"
    folder.mkdir()
    won = {"policy": "ppo", "against": "sft", "by": "judge", "win_rate": {"rate": ESTIMATE}}
    document: dict[str, Any] = {"judge": {"model": "J<1>", "wins": [won]}}
    (folder / "evaluation.json").write_text(json.dumps(document))
    assert (
        said(run)["compared"]
        == "after PPO the judge J<1> prefers 64 of 100 (55 to 72) answers to those before"
    )
    document["people"] = {"policies": [{"policy": "ppo", "win_rate": ESTIMATE | {"value": 0.7}}]}
    (folder / "evaluation.json").write_text(json.dumps(document))
    assert said(run)["compared"].startswith("people, asked blind, preferred 70 of 100 (55 to 72) of the PPO")
    assert "answers" not in said(run)
