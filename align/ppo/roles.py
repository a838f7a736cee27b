"""The roles of PPO on one base, their optimizers, and what of them a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from align.data.tokenize import Encoded
from align.errors import UserError
from align.models.ensemble import add_reward
from align.models.forward import Forward
from align.models.roles import Roles, tensors_of
from align.ppo.reference_scores import ReferenceScores
from align.processes.sharding import shared_out
from align.recipe.ppo import PPO
from align.recipe.sections import Recipe
from align.rewards.rewards import Rewards, RewardSource, load_rewards
from align.run.checkpoint import load_into, load_optimizer, optimizer_tensors
from align.run.folder import StageRun
from align.sampling.engines import open_engine
from align.sampling.params import Engine
from align.stages.frame import Setup

_ADAM_EPS = 1e-5  # as in 2403.17031: with 1e-8 the first updates are too large


@dataclass
class TrainingState:
    """What lasts between iterations beside weights and optimizers; the same on every process."""

    kl_coef: float  # of the next rollout
    bad_in_a_row: int = 0  # steps that could not be applied, up to now


@dataclass
class Watched:
    """What is remembered of the iterations done, to warn and to keep the best; in every checkpoint."""

    best: tuple[int, float] | None = None  # iteration and held-out score, with ppo.keep: best
    warned: list[str] = field(default_factory=list)
    training: list[float] = field(default_factory=list)  # mean scores by iteration, where there is a guard
    guard: list[float] = field(default_factory=list)

    def restore(self, document: dict[str, Any]) -> None:
        """Take over what a checkpoint says."""
        best = document["best"]
        self.best = None if best is None else (int(best[0]), float(best[1]))
        self.warned, self.training, self.guard = (document[k] for k in ("warned", "training", "guard"))


@dataclass(frozen=True)
class Context:
    """What the steps of an iteration share."""

    cfg: PPO
    seed: int
    forward: Forward
    optimizers: dict[str, torch.optim.Optimizer]
    setup: Setup
    rewards: Rewards
    score_std: float  # what scores are divided by before they become rewards
    state: TrainingState
    engine: Engine
    demonstrations: Sequence[Encoded] = field(default=())  # of PPO-ptx
    references: ReferenceScores = field(default_factory=ReferenceScores)
    watched: Watched = field(default_factory=Watched)

    @property
    def accel(self) -> Accelerator:
        """The processes."""
        return self.setup.accel

    @property
    def trained(self) -> tuple[str, ...]:
        """The roles that have an optimizer: the policy, and the value model where there is one."""
        return tuple(self.optimizers)


def prepare(
    recipe: Recipe, setup: Setup, sft: Path, rewards: Path | Sequence[RewardSource], guard: Path | None = None
) -> Context:
    """The roles on one base: policy and frozen reference from SFT, reward from RM, and value from either.

    `rewards`: the sources of rewards, or the one reward model's final/. No role for a source that is no
    model of this base, and no value model where the advantages need none. One more with a guard: another
    reward model, frozen, that scores and trains nobody.
    """
    sources = (
        [RewardSource("model", 1.0, adapter=rewards, final=rewards)] if isinstance(rewards, Path) else rewards
    )
    roles = Roles(setup.load_model(), setup.shard_group)
    roles.add("policy", sft, trains=True)
    roles.add("reference", sft, trains=False)
    found, score_std = load_rewards(
        sources, roles, setup.accel.device, recipe.ppo.scale_scores, recipe.ppo.reward_reduce
    )
    if recipe.ppo.has_value_model:
        _add_value(roles, recipe.ppo, sft, sources, found.score_stds, score_std)
    if guard is not None:
        add_reward(roles, "guard", guard)
    optimizers: dict[str, torch.optim.Optimizer] = {
        role: shared_out(
            torch.optim.AdamW(
                roles.parameters_of(role).values(), eps=_ADAM_EPS, weight_decay=recipe.ppo.weight_decay
            ),
            setup.accel,
        )
        for role in (("policy", "value") if recipe.ppo.has_value_model else ("policy",))
    }
    return Context(
        recipe.ppo,
        recipe.run.seed,
        Forward(
            roles,
            setup.template.eos_id,
            recipe.ppo.min_response_tokens,
            gradient_checkpointing=recipe.ppo.gradient_checkpointing is True,
        ),
        optimizers,
        setup,
        found,
        score_std,
        TrainingState(recipe.ppo.kl_coef),
        open_engine(
            recipe.ppo.engine,
            roles,
            setup.accel,
            urls=recipe.ppo.engine_url or (),
            folder=recipe.run.path / "ppo" / "engine",
            sleep=recipe.ppo.engine_sleep,
        ),
    )


def _add_value(
    roles: Roles,
    cfg: PPO,
    sft: Path,
    sources: Sequence[RewardSource],
    score_stds: Mapping[str, float],
    score_std: float,
) -> None:
    """The value model: the first reward model of this base as it scores, or the policy with value 0."""
    models = [source for source in sources if source.adapter is not None]
    if cfg.value_init == "policy":
        if cfg.value_model == "shared":
            roles.share("value", "policy", trains=True)
        else:
            roles.add("value", sft, trains=True)
        roles.add_head("value", torch.Generator(), bias=True)
        with torch.no_grad():  # a drawn head would add its noise to the first advantages
            roles.parameters_of("value")["head.weight"].zero_()
        return
    if not models:
        raise UserError(
            "ppo.value_init: the value model starts as the reward model, and no reward model is of this "
            "base: set `ppo.value_init: policy`"
        )
    first = models[0]
    assert first.adapter is not None
    roles.add("value", first.adapter, trains=True)
    roles.add_head("value", first.adapter, bias=True)
    with torch.no_grad():  # values are in units of what the scaled score counts
        weight = roles.parameters_of("value")["head.weight"]
        weight.mul_(first.weight).div_(score_stds.get(first.name, score_std))
        if cfg.reward_shape == "sigmoid":  # near 0, where centred scores lie, it is 1/2 + score/4
            weight.mul_(0.25)
            roles.parameters_of("value")["head.bias"].fill_(0.5)


def resume(context: Context, stage: StageRun) -> int:
    """Load the newest checkpoint, if there is one; returns the number of iterations done."""
    found = stage.newest()
    if found is None:
        return 0
    for role in context.trained:
        load_into(context.forward.roles.parameters_of(role), found.tensors(role), str(found.path))
        load_optimizer(context.optimizers[role], found.tensors(f"{role}_optimizer"))
    for name, value in found.document("state").items():
        setattr(context.state, name, value)
    context.watched.restore(found.document("watched"))
    if context.cfg.reward_shape != "none":
        context.references.restore(found.tensors("reference_scores"))
    return found.step


def save(context: Context, stage: StageRun, iteration: int) -> None:
    """Write what the next start goes on from."""
    tensors = {role: tensors_of(context.forward.roles, role) for role in context.trained}
    tensors |= {f"{role}_optimizer": optimizer_tensors(context.optimizers[role]) for role in context.trained}
    if context.cfg.reward_shape != "none":
        tensors["reference_scores"] = context.references.tensors()
    stage.save(iteration, tensors, {"state": asdict(context.state), "watched": asdict(context.watched)})
