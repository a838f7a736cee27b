"""Labels come from whoever declares that they can read them; align.data knows no labeling app."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from align.data import labels
from align.data.labels import GROUP, read_labels
from align.errors import UserError
from align.recipe.data import Entry
from align.records import Demonstration

ENTRY = Entry.model_validate({"labels": "here.db", "guideline": "3fa"})


def install(folder: Path, source: str) -> None:
    """A package of somebody's, installed in `folder`."""
    (folder / "somebody.py").write_text(source)
    about = folder / "somebody-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nlabels = somebody:read\n")


def test_an_installed_package_reads_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path,
        "def read(address, kind, filters):\n"
        "    return [{'prompt': f'{address} {kind} {sorted(filters.items())}', 'response': 'é'}]\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (row,) = map(json.loads, read_labels(Demonstration, ENTRY).decode().splitlines())
    assert row == {"prompt": "here.db demonstrations [('guideline', '3fa')]", "response": "é"}


def test_a_package_that_is_not_whole_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "import a_library_that_is_missing\n")
    monkeypatch.delitem(sys.modules, "somebody", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"needs a_library_that_is_missing, .*'align-rlhf\[labeling\]'"):
        read_labels(Demonstration, ENTRY)


def test_without_the_labeling_app_the_person_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(labels, "entry_points", lambda **_: ())
    with pytest.raises(UserError, match=r"needs the labeling app.*pip install 'align-rlhf\[labeling\]'"):
        read_labels(Demonstration, ENTRY)


def test_the_package_declares_what_reads_its_databases() -> None:
    pytest.importorskip("sqlalchemy", reason="needs the `labeling` extra")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"][GROUP].items()
    read = EntryPoint(name, value, GROUP).load()
    with pytest.raises(UserError, match="no such labeling database"):
        read("nowhere/labeling.db", "rankings", {"agreement": 0.5})
