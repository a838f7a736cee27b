"""`align label` tries the recipe's checks before it serves, and says where in the recipe one is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from align.cli.app import app

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

JUDGES = """
print("while it is imported")

def polite(prompts, responses):
    return [True for _ in responses]

def alone(responses):
    return [True for _ in responses]

number = 3
"""
SERVED = "served"


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `align label` with these checks: its code, and what it printed; SERVED where it would serve."""
    import labeling.serve

    monkeypatch.setattr(labeling.serve, "serve", lambda *given: print(SERVED))
    (tmp_path / "judges.py").write_text(JUDGES)
    (tmp_path / "quits.py").write_text("import os\nos._exit(7)\n")
    (tmp_path / "fails.py").write_text("raise RuntimeError('no key is set')\n")

    def run(*checks: str) -> tuple[int, str]:
        recipe = tmp_path / "r.yaml"
        folder = f"base: none\nrun: {{name: demo, folder: {tmp_path}}}\nlabeling:\n  checks:\n"
        recipe.write_text(folder + "".join(f"    - {check}\n" for check in checks))
        done = CliRunner().invoke(app, ["label", str(recipe)])
        return done.exit_code, done.output.replace(f"{tmp_path}/", "").replace("\n  ", " ")

    return run


def test_checks_that_can_be_made_are_served(label: Any) -> None:
    assert label("{function: judges.py:polite}", "{pattern: x}") == (0, f"{SERVED}\n")


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("{function: judges.py:rude}", "r.yaml:6: labeling.checks[1].function: the function judges.py:rude"),
        ("{function: judges.py:rude}", "cannot be loaded: AttributeError: module 'judges' has no"),
        ("{function: 'nowhere:polite'}", "No module named 'nowhere'"),
        ("{function: judges.py:number}", "is a int, not a function of prompts and responses"),
        ("{function: judges.py:alone}", "cannot be called with prompts and responses"),
        ("{function: fails.py:polite}", "RuntimeError: no key is set"),
        ("{function: quits.py:polite}", "ended Python with code 7"),
        ("{run: runs/none}", "r.yaml:6: labeling.checks[1].run: runs/none: there is no such folder"),
        ("{run: this}", "r.yaml:6: labeling.checks[1].run: this run has no reward model yet: train one"),
        ("{pattern: '('}", "r.yaml:6: labeling.checks[1]: pattern (: is no regular expression"),
    ],
)
def test_one_that_cannot_be_made_is_told_with_its_place_and_nothing_is_served(
    label: Any, check: str, says: str
) -> None:
    code, said = label("{max_characters: 9, name: short}", check)
    assert code == 2 and says in " ".join(said.split()), said
    assert SERVED not in said and "Traceback" not in said


def test_all_that_is_wrong_is_told_at_once(label: Any) -> None:
    code, said = label("{function: judges.py:rude}", "{run: this}", "{function: judges.py:polite}")
    assert code == 2 and "2 checks cannot be made" in said
    assert "r.yaml:5: labeling.checks[0]" in said and "r.yaml:6: labeling.checks[1]" in said
