"""rm and ppo with gradient checkpointing: the bits of a run without it, also where it comes after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
from conftest import make_recipe
from test_resume import _files, _kill, _metrics

from align.models import fused_llama, gradient_checkpointing
from align.recipe.load import load_recipe
from align.stage_table import STAGES

ON = ("rm.gradient_checkpointing=true", "ppo.gradient_checkpointing=true")
PPO = {"ptx_coef": 0.1, "entropy_coef": 0.01}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The recipe of the three stages, which ran without it."""
    recipe = make_recipe(tmp_path_factory.mktemp("without"), tiny_base, ppo=PPO)
    for stage in STAGES:
        _run(stage, recipe)
    return recipe


def _run(stage: str, recipe: Path, overrides: Sequence[str] = ()) -> None:
    import_module(STAGES[stage].module).run(load_recipe(recipe, overrides))


def _without(finished: Path, target: Path, *stages: str) -> Path:
    """The same recipe elsewhere, where these stages have not run."""
    shutil.copytree(finished.parent, target)
    for stage in stages:
        shutil.rmtree(target / "runs" / "tiny" / stage)
    recipe = target / finished.name
    recipe.write_text(recipe.read_text().replace(str(finished.parent), str(target)))
    return recipe


def _same(stage: str, one: Path, other: Path) -> bool:
    ours, theirs = (path.parent / "runs" / "tiny" / stage for path in (one, other))
    return _files(ours / "final") == _files(theirs / "final") and _metrics(ours) == _metrics(theirs)


@pytest.mark.parametrize("lean", [True, False])
def test_both_stages_give_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lean: bool
) -> None:
    """lean: as ppo goes through this base. Rankings are packed, and go through transformers' own layers."""
    calls: list[object] = []
    checkpointed = gradient_checkpointing.checkpointed

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(args[0])
        return checkpointed(*args, **kwargs)

    owner = fused_llama if lean else gradient_checkpointing
    monkeypatch.setattr(owner, "checkpointed", counted)
    stage = "ppo" if lean else "rm"
    recipe = _without(finished, tmp_path / "with", stage)
    _run(stage, recipe, ON)
    assert calls
    assert _same(stage, recipe, finished)


def test_a_run_goes_on_with_it_where_memory_ran_out_without(finished: Path, tmp_path: Path) -> None:
    recipe = _without(finished, tmp_path / "again", "ppo")
    _kill("ppo", recipe, "align.ppo.update:gradients", 4, "after")
    _run("ppo", recipe, ON)
    assert _same("ppo", recipe, finished)
