"""The roles of PPO on one base, their optimizers, and what of them a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from align.models.export import read_spread
from align.models.forward import Forward
from align.models.roles import Roles, tensors_of
from align.recipe import PPO, Recipe
from align.runtime.checkpoint import load_into, load_optimizer, optimizer_tensors
from align.runtime.run import StageRun
from align.stages.setup import Setup

TRAINED = ("policy", "value")
_ADAM_EPS = 1e-5  # 2403.17031, detail 20: with 1e-8 the first updates are too large


@dataclass(frozen=True)
class Context:
    """What the steps of an iteration share."""

    cfg: PPO
    seed: int
    forward: Forward
    optimizers: dict[str, torch.optim.Optimizer]
    setup: Setup
    spread: float  # what scores are divided by before they become rewards

    @property
    def accel(self) -> Accelerator:
        return self.setup.accel


def prepare(recipe: Recipe, setup: Setup, sft: Path, rm: Path) -> Context:
    """Four roles on one base: policy and frozen reference from SFT, reward and value from RM."""
    roles = Roles(setup.base.load_model(setup.accel.device))
    roles.add("policy", sft, trains=True)
    roles.add("reference", sft, trains=False)
    roles.add("reward", rm, trains=False)
    roles.add_head("reward", rm)
    roles.add("value", rm, trains=True)
    roles.add_head("value", rm, bias=True)
    spread = read_spread(rm) if recipe.ppo.scale_scores else 1.0
    with torch.no_grad():
        roles.parameters_of("value")["head.weight"].div_(spread)  # values are in units of the scaled score
    optimizers: dict[str, torch.optim.Optimizer] = {
        role: torch.optim.AdamW(
            roles.parameters_of(role).values(), eps=_ADAM_EPS, weight_decay=recipe.ppo.weight_decay
        )
        for role in TRAINED
    }
    return Context(recipe.ppo, recipe.run.seed, Forward(roles), optimizers, setup, spread)


def resume(context: Context, stage: StageRun) -> int:
    """Load the newest checkpoint, if there is one; returns the number of iterations done."""
    found = stage.newest()
    if found is None:
        return 0
    for role in TRAINED:
        load_into(context.forward.roles.parameters_of(role), found.tensors(role), str(found.path))
        load_optimizer(context.optimizers[role], found.tensors(f"{role}_optimizer"))
    return found.step


def save(context: Context, stage: StageRun, iteration: int) -> None:
    """Write what the next start goes on from."""
    tensors = {role: tensors_of(context.forward.roles, role) for role in TRAINED}
    tensors |= {f"{role}_optimizer": optimizer_tensors(context.optimizers[role]) for role in TRAINED}
    stage.save(iteration, tensors, {})
