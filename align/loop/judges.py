"""The reward models that say which tasks would teach most, as roles on the policy's own base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.data.batches import microbatches
from align.loop.policy import Policy
from align.loop.priority import disagreement, margin
from align.models.forward import Forward
from align.recipe import Recipe
from align.rollouts.rollout import Sampled
from align.runtime.lineage import parent
from align.serving.run import score_batch


@dataclass(frozen=True)
class Judges:
    """Reward models, or none: then all priorities are 0."""

    forward: Forward | None
    roles: Sequence[str]
    tokens: int  # in one forward pass
    pad_id: int

    def priorities(self, tasks: Sequence[Sequence[Sampled]]) -> list[float]:
        """One for each task: by margin with one reward model, by disagreement with several."""
        if self.forward is None:
            return [0.0] * len(tasks)
        flat = [(one.prompt, one.response) for task in tasks for one in task]
        scores = [self._scores(role, flat) for role in self.roles]
        found, start = [], 0
        for task in tasks:
            own = [of_one[start : start + len(task)] for of_one in scores]
            found.append(margin(own[0]) if len(own) == 1 else disagreement(own))
            start += len(task)
        return found

    def _scores(self, role: str, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
        assert self.forward is not None
        found = [0.0] * len(pairs)
        for rows in microbatches([(1, len(p) + len(r)) for p, r in pairs], self.tokens):
            scores = score_batch(self.forward, [pairs[i] for i in rows], self.pad_id, role)
            for i, value in zip(rows, scores.tolist(), strict=True):
                found[i] = value
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
    tokens, pad_id = recipe.rm.microbatch_tokens, setup.base.pad_id
    if priority == "none":
        return Judges(None, (), tokens, pad_id)
    found = [parent(recipe, "rm", str(run), setup.lineage) for run in runs]
    found = found or [parent(recipe, "rm", recipe.ppo.rm, setup.lineage)]
    names = [f"reward{i}" for i in range(len(found))]
    for name, one in zip(names, found, strict=True):
        policy.roles.add(name, one.final, trains=False)
        policy.roles.add_head(name, one.final)
    return Judges(Forward(policy.roles), names, tokens, pad_id)
