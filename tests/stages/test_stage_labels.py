"""People label while a stage trains: it keeps the labels that it began with, on all its processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from ranks import Ranks

from align.data.labels import RecordType
from align.errors import UserError
from align.recipe.data import Entry
from align.recipe.load import load_recipe
from align.run.files import read_json
from align.run.folder import StageRun
from align.stages import frame, sft

ROWS = [{"prompt": f"the {i}", "response": f" is {i % 3}"} for i in range(20)]
CHANGED = [{**row, "response": " other words"} for row in ROWS]
LABELS = {"demonstrations": {"labels": "labeling.db", "held_out": 0.2}, "template": "plain"}


def _read(kind: RecordType, entry: Entry) -> bytes:
    """A database is what this file holds."""
    return Path(entry.path).read_bytes()


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frame, "read_labels", _read)
    write_jsonl(tmp_path / "labeling.db", ROWS)
    return tiny_recipe(data={**LABELS, "cache": str(tmp_path / "cache")})


def _stop(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sft ends after its first checkpoint."""
    save = StageRun.save

    def once(self: StageRun, *arguments: Any, **named: Any) -> None:
        save(self, *arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "save", once)
        with pytest.raises(KeyboardInterrupt):
            sft.run(load_recipe(recipe))
    return load_recipe(recipe).run.path / "sft"


def _adapter(folder: Path) -> bytes:
    return (folder / "final" / "adapter_model.safetensors").read_bytes()


def test_it_goes_on_with_those_that_it_began_with(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sft.run(load_recipe(recipe, ["run.name=whole"]))
    whole = tmp_path / "runs" / "whole" / "sft"
    folder = _stop(recipe, monkeypatch)
    write_jsonl(tmp_path / "labeling.db", CHANGED)
    capsys.readouterr()
    sft.run(load_recipe(recipe))
    assert "sft: its labels are those of 20" in capsys.readouterr().out
    assert _adapter(folder) == _adapter(whole)
    data = read_json(whole / "manifest.json")["data"]
    assert read_json(folder / "manifest.json")["data"] == data

    (tmp_path / "labeling.db").unlink()  # nor is it needed any more
    sft.run(load_recipe(recipe))
    assert "sft is finished" in capsys.readouterr().out

    write_jsonl(tmp_path / "labeling.db", CHANGED)
    sft.run(load_recipe(recipe), restart=True)
    assert read_json(folder / "manifest.json")["data"] != data
    assert _adapter(folder) != _adapter(whole)


def test_where_they_are_not_kept_other_ones_are_refused_with_what_to_do(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _stop(recipe, monkeypatch)
    (kept,) = (folder / "labels").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b" is 1", b" is 9"))
    write_jsonl(tmp_path / "labeling.db", ROWS[1:])
    with pytest.raises(UserError) as refused:
        sft.run(load_recipe(recipe))
    assert "data.demonstrations: was " in str(refused.value)
    assert "A labeling database has other labels now" in str(refused.value)
    assert "--restart" in str(refused.value)


def test_other_filters_are_another_reading(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop(recipe, monkeypatch)
    write_jsonl(tmp_path / "labeling.db", ROWS[1:])
    raw = json.loads(recipe.read_text())
    raw["data"]["demonstrations"]["labelers"] = ["ann"]
    recipe.write_text(json.dumps(raw))
    with pytest.raises(UserError, match="data.demonstrations: was "):
        sft.run(load_recipe(recipe))


def test_a_manifest_names_no_file_outside(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _stop(recipe, monkeypatch)
    manifest = read_json(folder / "manifest.json")
    manifest["labels"] = dict.fromkeys(manifest["labels"], "../../../../labeling")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "labeling.jsonl").write_text("secret")
    sft.run(load_recipe(recipe))  # reads the database, which has the same labels still


def test_one_process_reads_for_all(group: Ranks, tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "labeling.db", ROWS)
    recipe = tiny_recipe(data={**LABELS, "cache": str(tmp_path / "cache")})
    ended = group.run("call", "rank_probes:labels_of_one", recipe)
    assert ended.codes == [0, 0], ended.output
    (tmp_path / "labeling.db").write_text("")
    done = group.run("call", "rank_probes:labels_of_one", recipe)
    assert done.codes == [0, 0], done.output
    assert "sft is finished" in done.output[0]


def test_processes_that_read_other_files_do_not_start(
    group: Ranks, tiny_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = tiny_recipe()
    rows = (tmp_path / "demonstrations.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "demonstrations0.jsonl").write_text("".join(rows))
    (tmp_path / "demonstrations1.jsonl").write_text("".join(rows[:-1]))
    ended = group.run("call", "rank_probes:files_of_their_own", recipe)
    assert ended.codes == [2, 2], ended.output
    told = " ".join(ended.output[0].split())
    assert "process 1 (on " in told and "reads: data.demonstrations. Put the same files in" in told
    assert not (tmp_path / "runs").exists()
