"""A reward model with several members: adapters and heads on one base, whose scores become one.

Each member is centred on the same demonstrations, so all score 0 there in the mean; each is then brought to
the first one's spread on these. (Reward model ensembles: 2310.02743.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from align.models.adapters import read_score_std

MEMBERS = "members"  # in final/: a folder for each member but the first, which lies in final/ itself
Reduce = Literal["mean", "min", "mean_minus_std"]


@dataclass(frozen=True)
class Ensemble:
    """A reward model's members, each a role with the factor of its scores, and what they are together."""

    members: Sequence[tuple[str, float]]
    reduce: Reduce = "mean"

    def reduced(self, scores: Tensor) -> Tensor:
        """One score [...] of those of the members [M, ...]: mean, min, or mean less standard deviation."""
        if self.reduce == "min":
            return scores.min(0).values
        mean = scores.mean(0)
        return mean - spread(scores) if self.reduce == "mean_minus_std" else mean


def spread(scores: Tensor) -> Tensor:
    """How far members [M, ...] disagree: the standard deviation over them (of all, so divided by M)."""
    return scores.std(0, unbiased=False)


def member_role(role: str, number: int) -> str:
    """The role of a member; the first has the reward model's own."""
    return f"{role}_member{number}" if number else role


def member_folders(final: Path) -> list[Path]:
    """Where the members of a reward model lie, the first one's final/ first."""
    found = [path for path in (final / MEMBERS).glob("*") if path.name.isdecimal()]
    return [final, *sorted(found, key=lambda path: int(path.name))]


def add_reward(roles: Any, role: str, final: Path, reduce: Reduce = "mean") -> None:
    """Add a frozen reward model to `roles`, with all its members; UserError where a spread is not known."""
    folders = member_folders(final)
    for number, folder in enumerate(folders):
        roles.add(member_role(role, number), folder, trains=False)
        roles.add_head(member_role(role, number), folder)
    if len(folders) > 1:
        roles.ensembles[role] = ensemble(role, [read_score_std(folder) for folder in folders], reduce)


def ensemble(role: str, stds: Sequence[float], reduce: Reduce = "mean") -> Ensemble:
    """Members whose scores have these standard deviations on the same demonstrations."""
    known = all(std > 0 for std in stds)
    factors = [stds[0] / std if known else 1.0 for std in stds]
    return Ensemble([(member_role(role, i), factor) for i, factor in enumerate(factors)], reduce)
