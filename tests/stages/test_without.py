"""Somebody's records are left out: of what trains, of what is held out, and of the evidence on others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, words, write_jsonl
from typer.testing import CliRunner

from align.cli.app import app
from align.data.evidence import of_databases
from align.data.load import load
from align.data.split import side
from align.errors import RecipeError, UserError
from align.recipe.data import Entry, Source
from align.recipe.load import load_recipe
from align.records import Ranking, prompt_key
from align.run.files import read_json
from align.stages import sft

PEOPLE = ("ann", "bob", "anna")


def _rows() -> list[dict[str, Any]]:
    """Each prompt is ranked by one of three people; bob's are from another source, ann has two in three."""
    rows = []
    for i, prompt in enumerate(f"the {a} {b}" for a in words(8) for b in ("is", "was", "and")):
        name = PEOPLE[(0, 0, 1, 0, 0, 2)[i % 6]]
        row = {"prompt": prompt, "responses": [" good", " old and tired"], "ranks": [1, 2], "labeler": name}
        rows.append(row | ({"source": "crowd 2"} if name == "bob" else {}))
    return rows


def _sides(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Labeler and side of each row, by the prompt's hash: 0.2 are held out."""
    return [(row["labeler"], side(prompt_key(row["prompt"]), 0.2)) for row in rows]


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    path = tiny_recipe(sft={"steps": 2}, rm={"steps": 4, "checkpoint_every": 2})
    write_jsonl(tmp_path / "rankings.jsonl", _rows())
    return path


def _align(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.output


def _source(recipe: Path, *terms: str) -> Source:
    found = load_recipe(recipe, [f"data.rankings.without={json.dumps(list(terms))}"]).data.rankings
    assert found is not None
    return found


def test_it_is_told_trains_without_them_and_the_manifest_knows(recipe: Path) -> None:
    sft.run(load_recipe(recipe))
    assert _align("rm", recipe)[0] == 0
    code, out = _align("rm", recipe, "--without", "labeler:ann")
    assert code == 2, out  # another reward model has this name
    assert 'data.rankings.without: was [], is ["labeler:ann"]' in out
    runs = recipe.parent / "runs"
    asked = f"--set run.name=tiny-without --set rm.sft={runs / 'tiny'}"
    assert asked in out and "--restart" in out
    code, out = _align("rm", recipe, "--without", "labeler:ann", *asked.split())
    assert code == 0, out
    counts = {s: sum(pair == ("ann", s) for pair in _sides(_rows())) for s in ("train", "held_out")}
    all_of = {s: sum(where == s for _, where in _sides(_rows())) for s in ("train", "held_out")}
    assert counts["held_out"] > 0
    assert (
        f"data.rankings.without: left out are {counts['train']} of {all_of['train']} records that train and "
        f"{counts['held_out']} of {all_of['held_out']} held out" in out
    )
    assert f"labeler:ann: {counts['train']} that train and {counts['held_out']} held out" in out
    assert out.index("left out are") < out.index("rm is finished")
    manifest, before = (read_json(runs / name / "rm/manifest.json") for name in ("tiny-without", "tiny"))
    assert manifest["without"] == {"rankings": ["labeler:ann"]}
    assert manifest["data"]["rankings"] != before["data"]["rankings"]
    assert manifest["final"] != before["final"]
    code, out = _align("rm", recipe, "--without", "labeler:ann", *asked.split())
    assert code == 0 and "rm is finished" in out
    assert load_recipe(runs / "tiny-without/recipe.yaml", of_run=True).data.rankings.without  # type: ignore[union-attr]


def test_it_is_as_if_their_lines_were_not_in_the_file(recipe: Path, tmp_path: Path) -> None:
    rest = [row for row in _rows() if row["labeler"] != "ann"]
    write_jsonl(tmp_path / "rest.jsonl", rest)
    theirs = load(Ranking, _source(recipe, "labeler:ann"), "rankings")
    alone = Source(train=[Entry(path=str(tmp_path / "rest.jsonl"))], held_out=0.2)
    assert theirs.fingerprint == load(Ranking, alone, "rankings").fingerprint
    assert [r.labeler for r in theirs.train] == [n for n, s in _sides(rest) if s == "train"]


def test_several_terms_and_the_recipes_own_add_up(recipe: Path) -> None:
    raw = json.loads(recipe.read_text())
    raw["data"]["rankings"]["without"] = "source:crowd 2"
    recipe.write_text(json.dumps(raw))
    sft.run(load_recipe(recipe))
    code, out = _align("rm", recipe, "--without", "labeler:anna", "--without", "record:rankings.jsonl:1")
    assert code == 0, out
    found = read_json(recipe.parent / "runs/tiny/rm/manifest.json")["without"]["rankings"]
    assert found[:2] == ["source:crowd 2", "labeler:anna"] and found[2].startswith("record:")
    first = load(Ranking, _source(recipe, found[2]), "rankings")
    assert first.left_out is not None
    assert first.left_out.all.train + first.left_out.all.held_out == 1
    kept = {r.prompt for r in [*first.train, *first.held_out]}
    assert _rows()[0]["prompt"] not in kept and len(kept) == len(_rows()) - 1


def test_a_name_that_nobody_has_is_refused_with_the_nearest(recipe: Path) -> None:
    sft.run(load_recipe(recipe))
    code, out = _align("rm", recipe, "--without", "labeler:an")
    count = [row["labeler"] for row in _rows()].count("ann")
    assert code == 2 and f"ann ({count} records)" in out and "anna (4 records)" in out, out
    raw = json.loads(recipe.read_text())
    raw["data"]["rankings"]["without"] = ["labeler:nobody"]
    recipe.write_text(json.dumps(raw, indent=1))
    code, out = _align("rm", recipe)
    line = next(i for i, x in enumerate(recipe.read_text().splitlines(), 1) if '"without"' in x)
    assert code == 2 and f"recipe.yaml:{line}" in out, out
    assert "no record has this labeler; there are" in out


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("ann", "write labeler:NAME, source:NAME or record:ID"),
        ("labeler:", "write labeler:NAME, source:NAME or record:ID"),
        ("record:rankings.jsonl:999", "no such record in data.rankings"),
        ("source:crowd", "no record has this source; there are crowd 2 (4 records)"),
    ],
)
def test_what_cannot_be_understood_is_refused(recipe: Path, term: str, told: str) -> None:
    sft.run(load_recipe(recipe))
    code, out = _align("rm", recipe, "--without", term)
    assert code == 2 and told in out, out


def test_demonstrations_have_no_labeler(recipe: Path) -> None:
    code, out = _align("sft", recipe, "--without", "labeler:ann")
    assert code == 2 and "only rankings say their labeler and source" in out
    code, out = _align("sft", recipe, "--without", "record:demonstrations.jsonl:2")
    assert code == 0, out
    assert "left out are 1 of" in out or "and 1 of" in out
    with pytest.raises(UserError, match="belongs under data.rankings"):
        load_recipe(recipe, ["data.demonstrations.without=labeler:ann"])
    with pytest.raises(UserError, match="8 digits or more"):
        load_recipe(recipe, ["data.demonstrations.without=record:12"])


def test_all_of_a_side_is_refused(recipe: Path, tmp_path: Path) -> None:
    everyone = [f"labeler:{name}" for name in PEOPLE]
    with pytest.raises(RecipeError, match="records that train would be left out"):
        load(Ranking, _source(recipe, *everyone), "rankings")
    mine = [dict(row, labeler=s) for row, (_, s) in zip(_rows(), _sides(_rows()), strict=True)]
    write_jsonl(tmp_path / "rankings.jsonl", mine)
    with pytest.raises(RecipeError, match="that are held out would be left out"):
        load(Ranking, _source(recipe, "labeler:held_out"), "rankings")


def test_what_databases_say_of_others_is_without_them_too(recipe: Path) -> None:
    rows = [row | {"prompt": f"new {i}"} for i, row in enumerate(_rows())]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    source = Source(train=[Entry(path="x.db", format="labels")], held_out=0.0, without=["labeler:ann"])
    named = [one.labeler for one in of_databases(source, set(), lambda entry: lines)]
    assert "ann" not in named and len(named) == sum(row["labeler"] != "ann" for row in rows)


def test_check_says_it_and_finds_names_that_nobody_has(recipe: Path) -> None:
    code, out = _align("check", recipe, "--set", "data.rankings.without=labeler:ann")
    assert code == 0 and "left out are" in out and "labeler:ann: " in out, out
    code, out = _align("check", recipe, "--set", "data.rankings.without=labeler:an")
    assert code == 2 and "labeler:an: no record has this labeler" in " ".join(out.split()), out


def test_align_run_leaves_out_what_each_stage_reads(recipe: Path) -> None:
    line = ("--without", "labeler:ann", "--without", "record:prompts.jsonl:1", "--set", "ppo.iterations=1")
    code, out = _align("run", recipe, *line)
    assert code == 0, out
    found = {s: read_json(recipe.parent / f"runs/tiny/{s}/manifest.json")["without"] for s in ("sft", "ppo")}
    assert found["sft"] == {} and [*found["ppo"]] == ["prompts"]
    assert _align("run", recipe, *line)[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupted_it_goes_on_with_the_same_line(recipe: Path) -> None:
    sft.run(load_recipe(recipe))
    line = [sys.executable, "-m", "align", "rm", str(recipe), "--without", "labeler:ann"]
    line += ["--set", "rm.steps=400", "--set", "rm.checkpoint_every=5"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    checkpoints = recipe.parent / "runs/tiny/rm/checkpoints"
    end = time.monotonic() + 120
    while not any(checkpoints.glob("step-*")) and begun.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    begun.send_signal(signal.SIGINT)
    out, _ = begun.communicate(timeout=60)
    assert begun.returncode == 130, out
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "rm goes on from step" in done.stdout, done.stdout + done.stderr
    assert "left out are" in done.stdout
