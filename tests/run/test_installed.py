"""An engine that asks for a newer transformers than there is: told by the check, and before PPO starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.check.run import check
from align.errors import UserError
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.run import installed
from align.run.installed import check_engine
from align.sampling.engines import open_engine


def has_transformers(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setattr(installed, "version", lambda name: number)


@pytest.mark.parametrize("number", ["5.17.0", "5.18.0", "5.19.0.dev0"])
def test_paged_is_refused_with_both_versions_and_a_way_on(
    monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    has_transformers(monkeypatch, number)
    with pytest.raises(UserError) as told:
        check_engine("paged")
    assert str(told.value) == (
        f"engine paged needs transformers 5.19 or newer, and {number} is installed: take engine hf, "
        "which draws the same tokens, or `pip install 'transformers>=5.19,<6'`"
    )
    check_engine("hf")
    check_engine("vllm")


@pytest.mark.parametrize("number", ["5.19.0", "5.23.0", "5.100.1"])
def test_paged_is_taken_from_its_version_on(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    has_transformers(monkeypatch, number)
    check_engine("paged")


def test_check_and_ppo_say_it_and_nothing_is_written(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_transformers(monkeypatch, "5.17.0")
    mine = [f"run.folder={tmp_path}", f"ppo.sft={finished_run}", f"ppo.rm={finished_run}"]
    path = finished_run.parents[1] / "recipe.yaml"
    recipe = load_recipe(path, [*mine, "ppo.engine=paged"])
    report = check(recipe, str(path))
    told = [finding for finding in report.findings if finding.code == "engine"]
    assert [(one.severity, one.where) for one in told] == [("error", "ppo.engine")]
    assert report.exit_code == 2
    with pytest.raises(UserError, match="engine paged needs transformers 5.19 or newer, and 5.17.0"):
        ppo.run(recipe)
    assert not list(tmp_path.iterdir())
    assert not [one for one in check(load_recipe(path, mine), str(path)).findings if one.code == "engine"]


def test_no_command_opens_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has_transformers(monkeypatch, "5.17.0")
    with pytest.raises(UserError, match="engine paged needs transformers"):
        open_engine("paged", None, None)  # type: ignore[arg-type]
