"""How a finished stage of a run folder was trained: its manifest, and the recipe that it followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from align.errors import MissingStage, UserError
from align.recipe import Base, Lora, Recipe, Stage
from align.recipe_file import load_recipe
from align.runtime.manifest import Manifest, read_manifest


def as_trained(
    folder: Path, stage: Stage, base: Path | None = None, finished: bool = True
) -> tuple[Recipe, Manifest]:
    """The recipe and manifest of a run folder's finished `stage`; `base`: where the base lies now.

    Raises MissingStage where it has not finished (with `finished`), UserError where the folder is no run's.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Name a run's folder, such as runs/quickstart")
    if (folder / "manifest.json").is_file():
        raise UserError(f"{folder} is a stage's folder: name the run's, {folder.parent}")
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} holds no recipe.yaml: it is not a run's folder, such as runs/quickstart")
    recipe = load_recipe(folder / "recipe.yaml", of_run=True)
    manifest = _manifest(folder, stage, finished)
    try:
        return _with(recipe, manifest, base), manifest
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"{folder / stage / 'manifest.json'} does not say what this version of align can read: {where}: "
            f"{error.errors()[0]['msg']}. Use the version that trained it (`align lineage {folder}` names it)"
        ) from error


def refuse_code(recipe: Recipe, folder: Path, trusted: bool) -> None:
    """Raise UserError where loading the base of a run runs other people's code, unless it is trusted.

    Whoever has the folder need not be who wrote its recipe.
    """
    if not trusted and (code := recipe.base.foreign_code):
        raise UserError(
            f"loading the base of {folder} runs {' and '.join(code)}, as its recipe says. Where you trust "
            "that code, add --trust-remote-code"
        )


def _manifest(folder: Path, stage: Stage, finished: bool) -> Manifest:
    path, state = folder / stage / "manifest.json", "has not run"
    if path.exists():
        manifest = read_manifest(path, f"restore it, or train {stage} again")
        if manifest.finished or not finished:
            return manifest
        state = "has not finished"
    raise MissingStage(f"{stage} {state} in {folder}: run `align {stage} {folder / 'recipe.yaml'}` first")


def _with(recipe: Recipe, manifest: Manifest, base: Path | None) -> Recipe:
    """The recipe with what the stage's own manifest says; recipe.yaml is that of the run's last command."""
    theirs = manifest.recipe
    spec: dict[str, Any] = {**recipe.base.model_dump(), **theirs["base"]}
    if base is not None:
        spec |= {"name": str(base), "revision": None}
    data = recipe.data.model_copy(update={"template": theirs["data"]["template"]})
    return recipe.model_copy(update={"base": Base(**spec), "lora": Lora(**theirs["lora"]), "data": data})
