"""docs/teach.py, which people read first, runs as it says, and each of its stages visibly learns."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "teach.py"


@pytest.fixture(scope="module")
def printed() -> str:
    done = subprocess.run(
        [sys.executable, str(PAGE)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sft_learns_how_people_write(printed: str) -> None:
    ((before, after),) = re.findall(r"held-out loss ([\d.]+) -> ([\d.]+) nats a token", printed)
    assert float(before) > 2.5 and float(after) < 1.45


def test_the_reward_model_learns_what_people_like(printed: str) -> None:
    ((before, after),) = re.findall(r"ordered as people did (\d+)% -> (\d+)%", printed)
    assert int(before) < 65 and int(after) >= 90


def test_ppo_says_what_people_like_and_not_more_words(printed: str) -> None:
    row = r"score +(-?[\d.]+), liked by people +(\d+)%, KL to SFT +(-?[\d.]+) nats, ([\d.]+) tokens"
    rows = [tuple(map(float, found)) for found in re.findall(row, printed)]
    assert len(rows) == 4
    (score, liked, kl, length), (last_score, last_liked, last_kl, last_length) = rows[0], rows[-1]
    assert kl == 0 < last_kl < 4
    assert last_score > score + 0.8
    assert liked < 40 and last_liked >= 75
    assert last_length < length + 1
    ((before, after),) = re.findall(r"liked by people (\d+)% after SFT -> (\d+)% after PPO", printed)
    assert int(before) < 40 and int(after) >= 75


def test_it_shows_responses_before_and_after(printed: str) -> None:
    assert len(re.findall(r"^    the \w+ is .+ ->  the \w+ is .+$", printed, re.MULTILINE)) == 6


def test_the_files_that_it_points_to_exist_and_it_imports_objectives_alone() -> None:
    text = PAGE.read_text(encoding="utf-8")
    files = re.findall(r"\balign/[\w/]+\.py\b", text)
    assert len(files) > 10
    assert [name for name in files if not (ROOT / name).is_file()] == []
    ours = re.findall(r"^from (align[\w.]*) import", text, re.MULTILINE)
    assert ours and all(name.startswith("align.objectives.") for name in ours)
