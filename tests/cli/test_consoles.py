"""A console that cannot show all characters: they are written otherwise, and no output ends a command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, make_recipe, write_jsonl

CONSOLES = {
    "ascii": {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    "strict C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


def align(console: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`align ARGUMENTS` on a console of this kind."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **CONSOLES[console]}
    command = [sys.executable, "-m", "align", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="latin-1", timeout=240, check=False
    )


@pytest.mark.parametrize("console", CONSOLES)
def test_check_shows_texts_that_the_console_cannot(console: str, tiny_base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, tiny_base)
    rows = [{"prompt": f"Wie heißt „{i}“ auf 中文 🙂?", "response": f" Ærø … {i}"} for i in range(20)]
    write_jsonl(tmp_path / "demonstrations.jsonl", [*rows, rows[0]])
    done = align(console, "check", recipe)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "bug in align" not in done.stderr
    assert ("heißt" if console == "latin-1" else "hei\\xdft") in done.stdout
    assert "\\u4e2d" in done.stdout


def test_stages_and_a_restart_write_to_any_console(
    finished_run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """The folders' name is one that ASCII has no letters for, and every stage names its folder."""
    place = tmp_path / "größe"
    shutil.copytree(finished_run, place / "tiny")
    recipe = finished_run.parents[1] / "recipe.yaml"
    fields = ["--set", f"run.folder={place}", "--set", "ppo.iterations=1"]
    for stage, words in (("sft", "sft has finished"), ("ppo", "ppo is finished")):
        done = align("ascii", stage, recipe, "--restart", *fields)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"the old {stage} folder is now" in done.stdout and words in done.stdout
        assert "gr\\xf6\\xdfe" in done.stdout


def test_scores_on_a_narrow_console_are_json(finished_run: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "the film 🙂", "response": " ist schön"}]
    done = align("latin-1", "score", finished_run, write_jsonl(tmp_path / "a.jsonl", rows))
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert {key: line[key] for key in rows[0]} == rows[0] and isinstance(line["score"], float)
