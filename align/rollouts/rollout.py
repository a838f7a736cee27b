"""A rollout: sampled responses with all that PPO needs of them, one shape a field."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from align.models.forward import Trunk


@dataclass
class Rollout:
    """Responses of this process (B rows, T = longest response). Padding holds 0 in every [B, T] field."""

    trunks: list[Trunk]  # B single rows
    response_mask: Tensor  # [B, T] bool
    old_logprobs: Tensor  # [B, T] of the policy that sampled, by the training forward
    ref_logprobs: Tensor  # [B, T]
    entropies: Tensor  # [B, T]
    old_values: Tensor  # [B, T]
    scores: Tensor  # [B] the weighted sum of the sources of rewards, penalties not yet taken off
    parts: dict[str, Tensor]  # what each source said, [B], by its name
    eos: Tensor  # [B] bool, whether the response ended by itself
    engine_logprobs: Tensor  # [B, T] as the engine saw them
