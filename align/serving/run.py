"""A finished stage of a run folder, opened to be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align.data.batches import collate
from align.errors import MissingStage, UserError
from align.models.base import Base
from align.models.forward import Forward
from align.models.roles import Roles
from align.recipe import Base as BaseSpec
from align.recipe import Lora, Recipe, Stage
from align.recipe_file import load_recipe
from align.runtime.files import read_json
from align.runtime.lineage import parent
from align.stages.setup import Setup, set_up

Pair = tuple[list[int], list[int]]  # the ids of a prompt and of a response


@dataclass(frozen=True)
class Trained:
    """What a stage left, verified, with the base and the template that it was trained with."""

    stage: Stage
    recipe: Recipe
    setup: Setup
    final: Path
    manifest: dict[str, Any]


def open_run(folder: Path, stage: Stage, base: Path | None = None) -> Trained:
    """The finished `stage` of a run folder; `base`: where the base lies now, if it was moved.

    Raises MissingStage where it has not finished, UserError where the folder is no run's, or its files or
    the base are not those that the stage wrote and read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Name a run's folder, such as runs/quickstart")
    if (folder / "manifest.json").is_file():
        raise UserError(f"{folder} is a stage's folder: name the run's, {folder.parent}")
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} holds no recipe.yaml: it is not a run's folder, such as runs/quickstart")
    recipe = load_recipe(folder / "recipe.yaml")
    manifest = _finished(folder, stage)
    recipe = _as_trained(recipe, manifest, base)
    try:
        setup = set_up(recipe)
    except UserError as error:
        if base is not None or Path(recipe.base.name).expanduser().is_dir():
            raise
        raise UserError(f"{error}. Where it lies elsewhere now, name it with --base") from error
    verified = parent(recipe, stage, str(folder), setup.lineage)
    return Trained(stage, recipe, setup, verified.final, verified.manifest)


def _finished(folder: Path, stage: Stage) -> dict[str, Any]:
    path = folder / stage / "manifest.json"
    try:
        manifest = read_json(path)
        if manifest["finished"]:
            return dict(manifest)
        state = "has not finished"
    except FileNotFoundError:
        state = "has not run"
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or train {stage} again") from error
    raise MissingStage(f"{stage} {state} in {folder}: run `align {stage} {folder / 'recipe.yaml'}` first")


def _as_trained(recipe: Recipe, manifest: dict[str, Any], base: Path | None) -> Recipe:
    """The recipe with what the stage's own manifest says; recipe.yaml is that of the run's last command."""
    theirs = manifest["recipe"]
    spec: dict[str, Any] = {**recipe.base.model_dump(), **theirs["base"]}
    if base is not None:
        spec |= {"name": str(base), "revision": None}
    data = recipe.data.model_copy(update={"template": theirs["data"]["template"]})
    return recipe.model_copy(update={"base": BaseSpec(**spec), "lora": Lora(**theirs["lora"]), "data": data})


def reward_model(run: Trained, base: Base | None = None) -> Forward:
    """The run's reward model as it was trained, on the base in its own precision or as `base` says."""
    roles = Roles((base or run.setup.base).load_model(run.setup.accel.device))
    roles.add("reward", run.final, trains=False)
    roles.add_head("reward", run.final)
    return Forward(roles)


@torch.no_grad()
def score_batch(forward: Forward, pairs: Sequence[Pair], pad_id: int) -> Tensor:
    """Scores [B] of a batch, in float32 on the CPU."""
    return forward.scores("reward", forward.trunk(collate(pairs, pad_id))).float().cpu()
