"""Which tasks would teach most, by reward models that are roles on the policy's own base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import pvariance
from typing import Literal

import torch

from align.errors import UserError
from align.loop.policy import OpenPolicy
from align.models.ensemble import add_reward, member_folders
from align.models.forward import Forward
from align.models.scoring import score_members, score_pairs
from align.recipe.sections import Recipe
from align.run.lineage import parent
from align.sampling.params import Sampled


@dataclass(frozen=True)
class RewardModels:
    """Reward models, or none: then all priorities are 0."""

    forward: Forward | None
    roles: Sequence[str]
    tokens: int  # in one forward pass
    apart: bool = False  # whether members of one reward model count as several

    def priorities(self, tasks: Sequence[Sequence[Sampled]]) -> list[float]:
        """One for each task: by margin with one reward model, by disagreement with several."""
        if self.forward is None:
            return [0.0] * len(tasks)
        flat = [(one.prompt, one.response) for task in tasks for one in task]
        read = score_members if self.apart else score_pairs
        scores = torch.cat(
            [read(self.forward, role, flat, self.tokens).view(-1, len(flat)) for role in self.roles]
        ).tolist()
        found, start = [], 0
        for task in tasks:
            own = [of_one[start : start + len(task)] for of_one in scores]
            found.append(margin(own[0]) if len(own) == 1 else disagreement(own))
            start += len(task)
        return found


def open_reward_models(
    recipe: Recipe,
    policy: OpenPolicy,
    priority: Literal["none", "margin", "disagreement"],
    runs: Sequence[Path],
) -> RewardModels:
    """The reward models of `runs`, else the recipe's own; verified to be of the policy's base and template.

    Raises MissingStage where one has not finished.
    """
    setup = policy.setup
    tokens = recipe.rm.microbatch_tokens
    if priority == "none":
        return RewardModels(None, (), tokens)
    found = [parent(recipe, "rm", str(run), setup.lineage) for run in runs]
    found = found or [parent(recipe, "rm", recipe.ppo.rm, setup.lineage)]
    names = [f"reward{i}" for i in range(len(found))]
    for name, one in zip(names, found, strict=True):
        add_reward(policy.roles, name, one.final)
    if priority == "disagreement":
        members = sum(len(member_folders(one.final)) for one in found)
        if members < 2:
            raise UserError(
                f"--priority disagreement needs several reward models, and {found[0].final.parent} is one: "
                "name another with --reward-model too, or train rm with `members: 4`, say"
            )
    apart = priority == "disagreement"
    return RewardModels(Forward(policy.roles, logits=False), names, tokens, apart)


def margin(scores: Sequence[float]) -> float:
    """1 / (1 + gap between the two best scores): 1 where the reward model cannot tell them apart."""
    best, second = sorted(scores, reverse=True)[:2]
    return 1 / (1 + best - second)


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
