"""What samples the responses of a rollout: one protocol, an engine a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from align.errors import UserError
from align.models.base import Base
from align.models.roles import Roles
from align.recipe_ppo import PPO
from align.rollouts.params import Sampled


@dataclass(frozen=True)
class Terms:
    """How tokens are drawn, and where a response ends."""

    temperature: float
    eos_id: int
    pad_id: int
    max_tokens: int
    batch_tokens: int  # held in one decoding batch at most, as far as an engine can tell
    min_tokens: int = 0  # EOS has no probability before a response has so many


class Engine(Protocol):
    """Samples with the policy that `update` handed over last."""

    def update(self) -> None:
        """Take over the policy as it is now."""

    def sample(self, prompts: list[list[int]], rows: list[int], iteration: int) -> list[Sampled]:
        """A response to each prompt; rows: their numbers in the rollout of all processes.

        What is drawn for a row is a function of (seed, iteration, row), as far as the engine allows it.
        """

    def close(self) -> None:
        """Give back what the engine holds."""


def terms(cfg: PPO, base: Base) -> Terms:
    """What a recipe says of sampling. A pass that keeps no activations holds four times the tokens."""
    return Terms(
        temperature=cfg.temperature,
        eos_id=int(base.tokenizer.eos_token_id),
        pad_id=base.pad_id,
        max_tokens=cfg.max_response_tokens,
        batch_tokens=cfg.microbatch_tokens * 4,
        min_tokens=cfg.min_response_tokens,
    )


def open_engine(cfg: PPO, seed: int, roles: Roles, base: Base, folder: Path) -> Engine:
    """The engine that the recipe names; what it writes goes into `folder`, this process's own.

    Raises UserError where it cannot be used.
    """
    drawn = terms(cfg, base)
    if cfg.engine == "paged":
        if roles.together:
            raise UserError(
                "ppo.engine: paged cannot sample from a base that is sharded: its scheduler decides for each "
                "process alone when there is a pass, and a pass here is one of all processes. Use hf or "
                "vllm, or distributed_type MULTI_GPU"
            )
        from align.rollouts.paged import Paged

        return Paged(roles, drawn, seed)
    if cfg.engine == "vllm":
        from align.rollouts.vllm import Vllm

        return Vllm(roles, drawn, seed, str(cfg.engine_url), folder)
    from align.rollouts.hf import Hf

    return Hf(roles, drawn, seed)
