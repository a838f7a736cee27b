"""Which tasks would teach most, by reward models that are roles on the policy's own base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import pvariance

import torch

from align.errors import UserError
from align.loop.policy import OpenPolicy
from align.models.ensemble import add_reward, member_folders
from align.models.forward import Forward
from align.models.scoring import score_members, score_pairs
from align.recipe import Priority
from align.recipe.sections import Recipe
from align.run.lineage import parent
from align.sampling.params import Sampled


@dataclass(frozen=True)
class RewardModels:
    """Reward models, or none: then all priorities are 0."""

    priority: Priority
    forward: Forward | None
    roles: Sequence[str]
    tokens: int  # in one forward pass

    def priorities(self, tasks: Sequence[Sequence[Sampled]]) -> list[float]:
        """One for each task, by the rule."""
        if self.forward is None or not tasks:
            return [0.0] * len(tasks)
        flat = [(one.prompt, one.response) for task in tasks for one in task]
        # Only disagreement counts the members of one reward model as several.
        read = score_members if self.priority == "disagreement" else score_pairs
        scores = torch.cat(
            [read(self.forward, role, flat, self.tokens).view(-1, len(flat)) for role in self.roles]
        ).tolist()
        found, start = [], 0
        for task in tasks:
            own = [of_one[start : start + len(task)] for of_one in scores]
            found.append(_by_rule(self.priority, own))
            start += len(task)
        return found


def open_reward_models(
    recipe: Recipe,
    policy: OpenPolicy,
    priority: Priority,
    runs: Sequence[Path],
) -> RewardModels:
    """The reward models of `runs`, else the recipe's own; verified to be of the policy's base and template.

    Raises MissingStage where one has not finished.
    """
    setup = policy.setup
    tokens = recipe.rm.microbatch_tokens
    if priority == "none":
        return RewardModels(priority, None, (), tokens)
    found = [parent(recipe, "rm", str(run), setup.lineage) for run in runs]
    found = found or [parent(recipe, "rm", recipe.ppo.rm, setup.lineage)]
    names = [f"reward{i}" for i in range(len(found))]
    for name, one in zip(names, found, strict=True):
        add_reward(policy.roles, name, one.final)
    if priority == "disagreement":
        members = sum(len(member_folders(one.final)) for one in found)
        if members < 2:
            raise UserError(
                f"priority disagreement needs several reward models, and {found[0].final.parent} is one: "
                "name another with --reward-model too, or train rm with `members: 4`, say"
            )
    return RewardModels(priority, Forward(policy.roles, logits=False), names, tokens)


def _by_rule(priority: Priority, scores: Sequence[Sequence[float]]) -> float:
    """scores: for each reward model those of a task's responses."""
    if priority == "disagreement":
        return disagreement(scores)
    return margin(scores[0]) if priority == "margin" else gap(scores[0])


def margin(scores: Sequence[float]) -> float:
    """1 / (1 + gap between the two best scores): 1 where the reward model cannot tell them apart."""
    best, second = sorted(scores, reverse=True)[:2]
    return 1 / (1 + best - second)


def gap(scores: Sequence[float]) -> float:
    """1 - margin: 0 where the reward model cannot tell the two best apart, up to 1 where they are far apart.

    Large gaps first, as arXiv 2603.09692 has it for the two responses of a pair.
    """
    return 1 - margin(scores)


def disagreement(scores: Sequence[Sequence[float]]) -> float:
    """The mean over pairs of responses of the variance, over reward models, of P(one beats the other).

    scores: for each reward model those of the same responses. Ensemble disagreement as in arXiv 1706.03741,
    section 2.2.4; P is Bradley and Terry's. From 0, where all agree, to 1/4.
    """
    pairs = list(combinations(range(len(scores[0])), 2))
    return sum(pvariance([_beats(own[i], own[j]) for own in scores]) for i, j in pairs) / len(pairs)


def _beats(one: float, other: float) -> float:
    """The logistic function of the difference, without overflow."""
    return 0.5 * (1 + math.tanh((one - other) / 2))
