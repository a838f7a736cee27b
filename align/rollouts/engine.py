"""How the responses of a rollout are sampled, whatever samples them."""

from __future__ import annotations

from dataclasses import dataclass

from align.models.base import Base
from align.recipe_ppo import PPO


@dataclass(frozen=True)
class Terms:
    """How tokens are drawn, and where a response ends."""

    temperature: float
    eos_id: int
    pad_id: int
    max_tokens: int
    batch_tokens: int  # held in one decoding batch at most, as far as an engine can tell
    min_tokens: int = 0  # EOS has no probability before a response has so many


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
