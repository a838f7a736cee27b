"""`align lineage RUN --saw`: which weights of a chain saw somebody's records."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_recipe, write_jsonl
from typer.testing import CliRunner

from align.cli.app import app
from align.data.split import side
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.records import prompt_key
from align.seeds import step_rows
from align.stages import frame, rm, sft


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "rankings.jsonl").read_text().splitlines()]
    return [row | {"labeler": ("ann", "bob")[i % 2]} for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def chain(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stages, and beside them rm and ppo without ann, on the first one's sft; the recipe's path."""
    folder = tmp_path_factory.mktemp("saw")
    path = make_recipe(folder, tiny_base, ppo={"iterations": 1}, rm={"steps": 2})
    write_jsonl(folder / "rankings.jsonl", _rows(folder))
    first = load_recipe(path)
    for stage in (sft, rm, ppo):
        stage.run(first)
    here = str(first.run.path)
    other = ["run.name=other", f"rm.sft={here}", f"ppo.sft={here}", "data.rankings.without=labeler:ann"]
    for stage in (rm, ppo):
        stage.run(load_recipe(path, other))
    return path


@pytest.fixture
def path(chain: Path, tmp_path: Path) -> Path:
    """A copy whose files may be changed."""
    shutil.copytree(chain.parent, tmp_path / "copy")
    for file in (tmp_path / "copy/runs").rglob("*"):
        if file.name in ("recipe.yaml", "manifest.json"):
            file.write_text(file.read_text().replace(str(chain.parent), str(tmp_path / "copy")))
    return tmp_path / "copy/recipe.yaml"


def _ask(path: Path, run: str, *terms: str) -> tuple[int, str]:
    line = [part for term in terms for part in ("--saw", term)]
    done = CliRunner().invoke(app, ["lineage", str(path.parent / "runs" / run), *line])
    return done.exit_code, done.output


def _json(path: Path, run: str, term: str) -> dict[str, Any]:
    line = ["lineage", str(path.parent / "runs" / run), "--saw", term, "--json"]
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, line).stdout)
    return found


def _of(document: dict[str, Any], stage: str, kind: str) -> dict[str, Any]:
    (one,) = (x for x in document["stages"] if x["stage"] == stage)
    (found,) = (x for x in one["records"] if x["kind"] == kind)
    return dict(found)


def test_each_stage_of_the_chain_answers(chain: Path) -> None:
    rows = _rows(chain.parent)
    sides = [side(prompt_key(row["prompt"]), 0.2) for row in rows]
    train = [row for row, where in zip(rows, sides, strict=True) if where == "train"]
    seed = load_recipe(chain).run.seed
    drawn = {i for step in range(2) for i in step_rows(seed, "rm", step, 4, len(train))}
    anns = {i for i, row in enumerate(train) if row["labeler"] == "ann"}
    assert 0 < len(anns & drawn) < len(anns)
    code, out = _ask(chain, "tiny", "labeler:ann")
    assert code == 0, out
    counts = _of(_json(chain, "tiny", "labeler:ann"), "rm", "rankings")["counts"]
    held = sum(r["labeler"] == "ann" for r, where in zip(rows, sides, strict=True) if where == "held_out")
    assert counts["train"] == len(anns) and counts["held_out"] == held and counts["left_out"] == 0
    assert counts["read"] == len(anns & drawn)
    assert f"rankings  labeler:ann  TRAINED ON: {len(anns)} among what trains, of which its steps drew" in out
    assert "labeler:ann  NOT SAID BY THESE RECORDS: demonstrations name no labeler" in out
    tail = out[out.index("whose weights saw any of it") :]
    runs = chain.parent / "runs"
    assert f"itself: rm of {runs}/tiny" in tail
    assert f"by what it started from: ppo of {runs}/tiny" in tail
    assert f"no, as far as its records say: sft of {runs}/tiny" in tail
    assert "no: " in _ask(chain, "tiny", "record:rankings.jsonl:1")[1]


def test_left_out_is_told_from_absent(chain: Path) -> None:
    code, out = _ask(chain, "other", "labeler:ann", "labeler:bo")
    assert code == 0, out
    assert "labeler:ann  LEFT OUT: " in out and "left out by `without`" in out
    assert "labeler:bo  NOT IN THE DATA: no record has this labeler; there are bob (" in out
    document = _json(chain, "other", "labeler:ann")
    rankings = _of(document, "rm", "rankings")["counts"]
    assert rankings["train"] == rankings["held_out"] == 0
    assert rankings["left_out"] == sum(row["labeler"] == "ann" for row in _rows(chain.parent))
    assert {one["weights_saw"]["labeler:ann"] for one in document["stages"]} == {
        "no, as far as its records say"
    }
    assert [one["stage"] for one in document["stages"]] == ["sft", "rm", "ppo"]


def test_one_record_of_each_kind(chain: Path) -> None:
    for file, stage, kind in (("demonstrations", "sft", "demonstrations"), ("prompts", "ppo", "prompts")):
        row = json.loads((chain.parent / f"{file}.jsonl").read_text().splitlines()[2])
        trains = side(prompt_key(row["prompt"]), 0.2) == "train"
        found = _of(_json(chain, "tiny", f"record:{file}.jsonl:3"), stage, kind)
        assert (found["counts"]["train"], found["counts"]["held_out"]) == ((1, 0) if trains else (0, 1))
        assert (found["verdict"] == "held out") == (not trains)


def test_data_that_changed_since_are_told(path: Path) -> None:
    file = path.parent / "rankings.jsonl"
    file.write_text(file.read_text().replace(" dull", " grey", 1))
    code, out = _ask(path, "tiny", "labeler:ann")
    assert code == 2 and "labeler:ann  NOT KNOWN: the records have changed since it was trained" in out
    assert "as they are now: " in out and "not known: rm of" in out
    file.unlink()
    code, out = _ask(path, "tiny", "labeler:ann")
    assert code == 2 and "NOT KNOWN: data.rankings: 1 problem" in out and "no such file" in out


def test_a_parent_that_is_gone_is_not_no(path: Path) -> None:
    shutil.rmtree(path.parent / "runs/tiny/sft")
    code, out = _ask(path, "other", "labeler:ann")
    assert code == 2 and "NOT VERIFIED" in out and "not known: rm of" in out


@pytest.mark.parametrize("term", ["ann", "labeler:", "person:ann"])
def test_a_term_that_is_none(chain: Path, term: str) -> None:
    code, out = _ask(chain, "tiny", term)
    assert code == 2 and f"--saw {term}: write labeler:NAME, source:NAME or record:ID" in out


def test_json_needs_a_question(chain: Path, tiny_recipe: Callable[..., Path]) -> None:
    done = CliRunner().invoke(app, ["lineage", str(chain.parent / "runs/tiny"), "--json"])
    assert done.exit_code == 2 and "--saw" in done.output


def test_what_could_not_be_encoded_was_not_trained_on(
    tiny_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = tiny_recipe(sft={"steps": 1})
    rows = [json.loads(line) for line in (tmp_path / "demonstrations.jsonl").read_text().splitlines()]
    trains = [i for i, row in enumerate(rows) if side(prompt_key(row["prompt"]), 0.2) == "train"]
    rows[trains[0]]["response"] = " so" * 2000
    write_jsonl(tmp_path / "demonstrations.jsonl", rows)
    sft.run(load_recipe(path, ["data.demonstrations.on_bad_record=skip"]))
    line = trains[0] + 1
    code, out = _ask(path, "tiny", f"record:demonstrations.jsonl:{line}")
    assert code == 0 and "SKIPPED: 1 skipped as they could not be encoded" in out, out
    code, out = _ask(path, "tiny", f"record:demonstrations.jsonl:{trains[1] + 1}")
    assert code == 0 and "TRAINED ON: 1 among what trains" in out, out


def test_labels_that_a_stage_kept_are_asked_when_the_database_has_gone(
    tiny_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"the {i}", "response": f" is {i % 3}"} for i in range(20)]
    write_jsonl(tmp_path / "labeling.db", rows)
    with monkeypatch.context() as patch:
        patch.setattr(frame, "read_labels", lambda kind, entry: Path(entry.path).read_bytes())
        labels = {"labels": "labeling.db", "held_out": 0.2}
        path = tiny_recipe(data={"template": "plain", "cache": str(tmp_path), "demonstrations": labels})
        sft.run(load_recipe(path))
    (tmp_path / "labeling.db").unlink()
    counts = {"train": 0, "held_out": 0}
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False)
        term = f"record:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        found = _of(_json(path, "tiny", term), "sft", "demonstrations")
        assert found["verdict"] in ("trained on", "held out"), found
        counts["train"] += found["counts"]["train"]
        counts["held_out"] += found["counts"]["held_out"]
    held = [side(prompt_key(row["prompt"]), 0.2) for row in rows].count("held_out")
    assert counts == {"train": 20 - held, "held_out": held}


def test_code_that_a_run_names_is_not_run(path: Path, tmp_path: Path) -> None:
    said = path.parent / "runs/tiny/recipe.yaml"
    mark = tmp_path / "ran"
    (tmp_path / "strangers.py").write_text(f"open({str(mark)!r}, 'w')\ndef read(row): yield row\n")
    file = path.parent / "rankings.jsonl"
    entry = f"\n    - path: {file}\n      format: {tmp_path / 'strangers.py'}:read\n"
    text = said.read_text()
    assert f"\n    - {file}\n" in text
    said.write_text(text.replace(f"\n    - {file}\n", entry))
    code, out = _ask(path, "tiny", "labeler:ann")
    assert code == 2 and "reading them runs" in out and "--trust-remote-code" in out
    assert not mark.exists()
