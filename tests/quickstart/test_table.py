"""The table, from run folders written by hand with numbers that can be checked by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import table
from align.errors import MissingStage, UserError


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answer(reference: str, policy: str, kl: float, score: float = 1.0) -> dict[str, Any]:
    return {
        "prompt": "The film",
        "reference": reference,
        "policy": policy,
        "reference_score": -0.5,
        "policy_score": score,
        "kl": kl,
        "reference_length": 4,
        "policy_length": 6,
        "reference_eos": True,
        "policy_eos": kl < 5,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    pytest.importorskip("vaderSentiment", reason="the quickstart extra is not installed")
    folder = tmp_path / "runs" / "quickstart"
    write(folder / "sft" / "metrics.jsonl", [{"eval/loss": 9.0}, {"eval/loss": 3.25}, {"loss": 1.0}])
    accuracy = {
        "eval/accuracy": 0.75,
        "eval/accuracy_low": 0.7,
        "eval/accuracy_high": 0.8,
        "eval/comparisons": 481,
    }
    write(folder / "rm" / "metrics.jsonl", [accuracy])
    answers = [
        answer(" is terrible.", " is great [so great].", 4.0),
        answer(" is a film.", " is great.", 6.0),
    ]
    write(folder / "ppo" / "held_out.jsonl", answers)
    return folder


def test_reads_a_run(run: Path) -> None:
    result = table.read_run(run)
    assert (result.sft_loss, result.accuracy, result.comparisons) == (3.25, 0.75, 481)
    assert (result.before.kl, result.after.kl) == (0.0, 5.0)
    assert (result.before.score, result.after.score) == (-0.5, 1.0)
    assert (result.before.eos, result.after.eos) == (1.0, 0.5)
    assert (result.before.length, result.after.length) == (4, 6)
    assert (result.before.positive, result.after.positive) == (0.0, 1.0)
    # VADER: "terrible" gives -2.1 and -2.1 / sqrt(2.1^2 + 15) = -0.4767; the second text is neutral
    assert result.before.compound == pytest.approx(-0.4767 / 2)
    # is-great, great-so, so-great, is-great: three of four
    assert result.after.distinct_2 == 3 / 4


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *runs: Path) -> str:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", ["table.py", *map(str, runs)])
    table.main()
    return capsys.readouterr().out


def test_prints_one_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(monkeypatch, capsys, run)
    for expected in (
        "3.250",
        "0.750  [0.700, 0.800]",
        "481 pairs",
        "-0.24 ± 0.24",
        "is great [so great].",
        str(run),
    ):
        assert expected in out
    assert "2 held-out prompts" in out


def test_prints_mean_and_spread_of_several_runs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run.with_name("seed1")
    for name in ("sft/metrics.jsonl", "rm/metrics.jsonl"):
        write(other / name, [json.loads((run / name).read_text().splitlines()[0])])
    write(
        other / "ppo" / "held_out.jsonl",
        [answer(" is.", " is great.", 2.0), answer(" was.", " was fine.", 4.0)],
    )
    out = shown(monkeypatch, capsys, run, other)
    assert "mean ± standard deviation of 2 runs" in out
    assert "4.0 ± 1.4" in out  # KL 5 and 3: mean 4, standard deviation sqrt(2)


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_a_missing_stage_is_named(run: Path, stage: str) -> None:
    for path in (run / stage).iterdir():
        path.unlink()
    with pytest.raises(MissingStage, match=f"align {stage}"):
        table.read_run(run)


def test_a_file_of_another_version_is_a_message(run: Path) -> None:
    write(run / "ppo" / "held_out.jsonl", [{"prompt": "The film"}])
    with pytest.raises(UserError, match="lacks"):
        table.read_run(run)
