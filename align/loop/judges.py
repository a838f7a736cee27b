"""The reward models that say which tasks would teach most, as roles on the policy's own base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.loop.policy import Policy
from align.loop.priority import disagreement, margin
from align.models.forward import Forward
from align.models.scoring import score_pairs
from align.recipe import Recipe
from align.rollouts.params import Sampled
from align.runtime.lineage import parent


@dataclass(frozen=True)
class Judges:
    """Reward models, or none: then all priorities are 0."""

    forward: Forward | None
    roles: Sequence[str]
    tokens: int  # in one forward pass

    def priorities(self, tasks: Sequence[Sequence[Sampled]]) -> list[float]:
        """One for each task: by margin with one reward model, by disagreement with several."""
        if self.forward is None:
            return [0.0] * len(tasks)
        flat = [(one.prompt, one.response) for task in tasks for one in task]
        scores = [score_pairs(self.forward, role, flat, self.tokens).tolist() for role in self.roles]
        found, start = [], 0
        for task in tasks:
            own = [of_one[start : start + len(task)] for of_one in scores]
            found.append(margin(own[0]) if len(own) == 1 else disagreement(own))
            start += len(task)
        return found


def open_judges(
    recipe: Recipe,
    policy: Policy,
    priority: Literal["none", "margin", "disagreement"],
    runs: Sequence[Path],
) -> Judges:
    """The reward models of `runs`, else the recipe's own; verified to be of the policy's base and template.

    Raises MissingStage where one has not finished.
    """
    setup = policy.setup
    tokens = recipe.rm.microbatch_tokens
    if priority == "none":
        return Judges(None, (), tokens)
    found = [parent(recipe, "rm", str(run), setup.lineage) for run in runs]
    found = found or [parent(recipe, "rm", recipe.ppo.rm, setup.lineage)]
    names = [f"reward{i}" for i in range(len(found))]
    for name, one in zip(names, found, strict=True):
        policy.roles.add(name, one.final, trains=False)
        policy.roles.add_head(name, one.final)
    return Judges(Forward(policy.roles), names, tokens)
