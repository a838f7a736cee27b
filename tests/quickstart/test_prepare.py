"""The cache folder: complete or absent, left alone when intact, made again when not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import prepare
import snippets
from align.errors import UserError


def make(folder: Path) -> None:
    (folder / "a.txt").write_text("first")
    (folder / "b.txt").write_text("second")


def refuse(folder: Path) -> None:
    raise AssertionError("made again without need")


def test_an_intact_folder_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "data"
    assert prepare.ensure(folder, "v1", make)
    assert not prepare.ensure(folder, "v1", refuse)
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


@pytest.mark.parametrize("harm", ["alter", "remove", "forget", "empty"])
def test_a_harmed_folder_is_made_again(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "data"
    prepare.ensure(folder, "v1", make)
    if harm == "alter":
        (folder / "b.txt").write_text("secret")
    elif harm == "remove":
        (folder / "b.txt").unlink()
    elif harm == "forget":
        (folder / prepare.MADE).unlink()
    else:
        (folder / prepare.MADE).write_text("")
    assert prepare.ensure(folder, "v1", make)
    assert (folder / "b.txt").read_text() == "second"
    assert not prepare.ensure(folder, "v1", refuse)


def test_another_version_is_made_again(tmp_path: Path) -> None:
    prepare.ensure(tmp_path / "data", "v1", make)
    assert prepare.ensure(tmp_path / "data", "v2", make)


def test_a_failure_leaves_nothing_in_place(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise OSError("disk full")

    with pytest.raises(OSError):
        prepare.ensure(tmp_path / "data", "v1", fail)
    assert not (tmp_path / "data").exists()
    assert prepare.ensure(tmp_path / "data", "v1", make)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_pip_failing_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"could not fetch vaderSentiment==3\.3\.2[\s\S]*network"):
        prepare.download(prepare.DATA_PACKAGE, prepare.DATA_SHA256, tmp_path, "--no-binary")


@pytest.mark.slow
def test_the_real_data(tmp_path: Path) -> None:
    """Fetches the sdist from the package index."""
    pytest.importorskip("vaderSentiment", reason="the quickstart extra is not installed")
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        prepare.make_data(tmp_path / name)
    once, twice = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("once", "twice"))
    assert once == twice
    rows = {
        name: [json.loads(line) for line in text.splitlines()]
        for name, text in once.items()
        if "json" in name
    }
    assert len(rows["demonstrations.jsonl"]) == snippets.DEMONSTRATIONS
    assert len(rows["rankings.held_out.jsonl"]) == snippets.HELD_OUT_RANKINGS
    assert len(rows["rankings.train.jsonl"]) > 400
    assert len(rows["prompts.held_out.jsonl"]) == snippets.HELD_OUT_PROMPTS
    assert sum(snippets.comparisons(row) for row in rows["rankings.held_out.jsonl"]) > 300


def test_the_script_runs_on_its_own() -> None:
    """Outside pytest, which adds folders to the path."""
    command = [sys.executable, str(prepare.HERE / "prepare.py"), "--help"]
    environment = {**os.environ, "PYTHONPATH": str(prepare.HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "--cache" in done.stdout
