"""The members of a reward model: who they are, what each learns from, and how they are one at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from align.models.adapters import save_adapter, save_head
from align.models.ensemble import MEMBERS, Ensemble, ensemble, member_role
from align.models.roles import Roles
from align.processes.sharding import shared_out
from align.recipe.sections import RM
from align.run.checkpoint import Checkpoint, load_into, load_optimizer, optimizer_tensors
from align.stages.ranking_rows import RankingRow

LENGTH = "length"  # ODIN's second head, which reads the reward's adapter and is not saved
TOGETHER = "members"  # what reads scores of all members as one is asked for this role


@dataclass(frozen=True)
class Member:
    """One of the reward models that are trained side by side."""

    number: int
    seed: int
    share: float

    @property
    def role(self) -> str:
        """What it is called on the base."""
        return member_role("reward", self.number)

    def learns(self, row: RankingRow) -> bool:
        """Whether this ranking's prompt is of the member's share: a function of seed, member and prompt."""
        if self.share == 1:
            return True
        named = json.dumps([self.seed, "rm member", self.number, row.encoded.prompt])
        return int.from_bytes(hashlib.sha256(named.encode()).digest()[:8], "big") / 2**64 < self.share


ALONE = Member(0, 0, 1.0)  # a reward model without others beside it


def members_of(cfg: RM, seed: int) -> list[Member]:
    """All members; a single one learns from everything."""
    share = cfg.member_share if cfg.members > 1 else 1.0
    return [Member(number, seed, share) for number in range(cfg.members)]


def judge(cfg: RM) -> str:
    """The role whose scores are the reward model's."""
    return TOGETHER if cfg.members > 1 else "reward"


def put_together(roles: Roles, cfg: RM, stds: Sequence[float] | None = None) -> None:
    """Let TOGETHER be the mean of all members, brought to one spread where theirs are known."""
    if cfg.members == 1:
        return
    names = [member_role("reward", number) for number in range(cfg.members)]
    plain = Ensemble([(name, 1.0) for name in names])
    roles.ensembles[TOGETHER] = plain if stds is None else ensemble("reward", stds)


def trained(roles: Roles, role: str = "reward") -> dict[str, nn.Parameter]:
    """What rm trains of a member, by name: adapter and head, and the head for length where there is one."""
    named = roles.parameters_of(role)
    if LENGTH in roles.heads:
        named |= {f"{LENGTH}.{name}": p for name, p in roles.parameters_of(LENGTH).items()}
    return named


def optimizers_of(
    roles: Roles, members: Sequence[Member], cfg: RM, accel: Accelerator
) -> dict[str, torch.optim.Optimizer]:
    """An optimizer for each member, by its role."""
    found: dict[str, torch.optim.Optimizer] = {}
    for member in members:
        parameters = trained(roles, member.role).values()
        plain = torch.optim.AdamW(parameters, lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
        found[member.role] = shared_out(plain, accel)
    return found


def to_checkpoint(
    roles: Roles, members: Sequence[Member], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint; all processes call it together."""
    found: dict[str, dict[str, Tensor]] = {}
    for member in members:
        found[member.role] = {name: p.detach() for name, p in trained(roles, member.role).items()}
        found[member_role("optimizer", member.number)] = optimizer_tensors(optimizers[member.role])
    return found


def from_checkpoint(
    roles: Roles,
    members: Sequence[Member],
    optimizers: Mapping[str, torch.optim.Optimizer],
    found: Checkpoint,
) -> int:
    """Take over what a checkpoint holds; returns its step."""
    for member in members:
        load_into(trained(roles, member.role), found.tensors(member.role), str(found.path))
        saved = found.tensors(member_role("optimizer", member.number))
        load_optimizer(optimizers[member.role], saved)
    return found.step


def save_members(roles: Roles, cfg: RM, folder: Path) -> list[Path]:
    """Write adapters and heads: the first member's into `folder`, the others' below it; returns where."""
    folders = [folder, *(folder / MEMBERS / str(number) for number in range(1, cfg.members))]
    assert roles.peft is not None
    for number, its in enumerate(folders):
        role = member_role("reward", number)
        save_adapter(roles.peft, roles.adapter_of(role), its)
        save_head(roles.heads[role], its)
    return folders
