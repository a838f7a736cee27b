"""What a stage compares with what it was started with: recipes of older versions, and manifests by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.errors import UserError
from align.recipe.load import load_recipe
from align.run.files import read_json, to_json
from align.run.lineage import stage_manifest
from align.stage_table import Stage

Change = Callable[[dict[str, Any]], object]
REWARDS = 'ppo.rewards=[{"run": "this"}, {"function": "m:f", "weight": 0.5}]'


def _begin(recipe: Path, stage: Stage, *settings: str) -> dict[str, Any]:
    """What open_stage does with the manifest."""
    loaded = load_recipe(recipe, settings)
    folder = loaded.run.path / stage
    lineage = {"base": "b", "template": "t"}
    manifest = stage_manifest(loaded, stage, lineage, {"rankings": "d"}, folder).json_ready()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(to_json(manifest))
    return manifest


def _older(recipe: Path, stage: Stage, change: Change, *settings: str) -> None:
    """A stage that has a checkpoint, and whose manifest is changed."""
    manifest = _begin(recipe, stage, *settings)
    folder = load_recipe(recipe).run.path / stage
    change(manifest["recipe"])
    (folder / "manifest.json").write_text(to_json(manifest))
    (folder / "checkpoints" / "step-000001").mkdir(parents=True)


def _rename(fields: dict[str, Any], new: str, old: str, value: object) -> None:
    """What an earlier version wrote, in which the key had another name."""
    del fields[new]
    fields[old] = value


SHARED = ["ppo.value_init=policy", "ppo.value_model=shared"]
OLDER: list[tuple[Stage, Change, list[str]]] = [
    ("sft", lambda r: r["sft"].pop("packing"), []),
    ("rm", lambda r: r["rm"].pop("centering_coef"), []),
    ("rm", lambda r: r["lora"].pop("layers"), ["lora.layers=null"]),
    ("rm", lambda r: r["base"].pop("attention"), []),
    ("ppo", lambda r: [r["ppo"].pop(key) for key in ("value_model", "keep", "kl_target", "rewards")], []),
    ("ppo", lambda r: [one.pop("timeout") for one in r["ppo"]["rewards"]], [REWARDS]),
    ("ppo", lambda r: _rename(r["ppo"], "value_warmup", "critic_warmup", 3), ["ppo.value_warmup=3"]),
    ("ppo", lambda r: _rename(r["ppo"], "value_model", "value_trunk", "own"), []),
    ("ppo", lambda r: _rename(r["ppo"], "value_model", "value_trunk", "policy"), SHARED),
]


@pytest.mark.parametrize(("stage", "change", "settings"), OLDER)
def test_an_older_version_without_a_field_or_with_another_name_for_it_is_gone_on_from(
    tiny_recipe: Callable[..., Path], stage: Stage, change: Change, settings: list[str]
) -> None:
    recipe = tiny_recipe()
    _older(recipe, stage, change, *settings)
    before = read_json(load_recipe(recipe).run.path / stage / "manifest.json")["recipe"]
    assert _begin(recipe, stage, *settings)["recipe"] == before  # checkpoints are known by its hash


@pytest.mark.parametrize(
    ("stage", "change", "settings", "says"),
    [
        ("rm", lambda r: r["rm"].pop("margin"), ["rm.margin=0.5"], "rm.margin: was 0.0, is 0.5"),
        ("rm", lambda r: r["lora"].pop("layers"), [], "lora.layers: was null, is 2"),
        (
            "ppo",
            lambda r: r["ppo"].update(keep="best", evaluate_every=2),
            [],
            'ppo.keep: was "best", is "last"',
        ),
        (
            "ppo",
            lambda r: [one.pop("weight") for one in r["ppo"]["rewards"]],
            [REWARDS],
            "ppo.rewards[1].weight: was 1.0, is 0.5",
        ),
        ("sft", lambda r: r["sft"].update(curriculum=3), [], "sft.curriculum: was 3, is not there"),
        (
            "ppo",
            lambda r: _rename(r["ppo"], "value_model", "value_trunk", "policy"),
            [],
            'ppo.value_model: was "shared", is "separate"',
        ),
    ],
)
def test_one_that_is_set_is_a_change_and_so_is_one_that_has_gone(
    tiny_recipe: Callable[..., Path], stage: Stage, change: Change, settings: list[str], says: str
) -> None:
    recipe = tiny_recipe()
    _older(recipe, stage, change, *settings)
    with pytest.raises(UserError, match="was started with something else") as refused:
        _begin(recipe, stage, *settings)
    assert str(refused.value).splitlines()[1:-1] == [f"  {says}"]
    assert "--restart" in str(refused.value)


def test_what_this_version_does_not_compare_any_more_is_no_difference(
    tiny_recipe: Callable[..., Path],
) -> None:
    recipe = tiny_recipe()
    _older(recipe, "rm", lambda r: r["rm"].update(checkpoint_every=7))
    _begin(recipe, "rm")


def test_how_often_it_is_evaluated_may_change_unless_it_chooses_the_best(
    tiny_recipe: Callable[..., Path],
) -> None:
    recipe = tiny_recipe()
    _older(recipe, "ppo", lambda r: None, "ppo.evaluate_every=2")
    _begin(recipe, "ppo", "ppo.evaluate_every=3")
    best = tiny_recipe(recipe.parent / "best", ppo={"keep": "best", "evaluate_every": 2})
    _older(best, "ppo", lambda r: None)
    with pytest.raises(UserError, match=r"ppo\.evaluate_every: was 2, is 3"):
        _begin(best, "ppo", "ppo.evaluate_every=3")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("lora"),
        lambda r: r.update(base=None),
        lambda r: r.update(rm=[1]),
        lambda r: r["data"].clear(),
    ],
)
def test_a_manifest_without_its_parts_is_refused_with_what_to_do(
    tiny_recipe: Callable[..., Path], change: Change
) -> None:
    recipe = tiny_recipe()
    _older(recipe, "rm", change)
    with pytest.raises(UserError, match=r"manifest\.json.*--restart"):
        _begin(recipe, "rm")
