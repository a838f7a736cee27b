"""A finished stage of a run folder, opened to be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from align.errors import UserError
from align.models.base import BaseCheckpoint
from align.models.ensemble import add_reward
from align.models.forward import Forward
from align.models.roles import Roles
from align.recipe.sections import Recipe
from align.run.lineage import as_trained, parent, refuse_code
from align.run.manifest import Manifest
from align.stage_table import Stage
from align.stages.frame import Setup, set_up


@dataclass(frozen=True)
class Trained:
    """What a stage left, verified, with the base and the template that it was trained with."""

    stage: Stage
    recipe: Recipe
    setup: Setup
    final: Path
    manifest: Manifest


def open_run(folder: Path, stage: Stage, base: Path | None = None, trusted: bool = False) -> Trained:
    """The finished `stage` of a run folder; `base`: where the base lies now, if it was moved.

    trusted: code that comes with the base may run, where the run's recipe says that it does. Nothing else
    that the recipe names is run.

    Raises MissingStage where it has not finished, UserError where the folder is no run's, its files or
    the base are not those that the stage wrote and read, or the base's code is not trusted.
    """
    recipe, _ = as_trained(folder, stage, base)
    refuse_code(recipe, folder, trusted)
    try:
        setup = set_up(recipe)
    except UserError as error:
        if base is not None or Path(recipe.base.name).expanduser().is_dir():
            raise
        raise UserError(f"{error}. Where it lies elsewhere now, name it with --base") from error
    verified = parent(recipe, stage, str(folder), setup.lineage)
    return Trained(stage, recipe, setup, verified.final, verified.manifest)


def reward_model(run: Trained, base: BaseCheckpoint | None = None) -> Forward:
    """The run's reward model as it was trained, on the base in its own precision or as `base` says."""
    roles = Roles((base or run.setup.base).load_model(run.setup.accel.device))
    add_reward(roles, "reward", run.final)
    return Forward(roles, logits=False)
