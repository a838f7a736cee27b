"""What a rollout's tokens were worth: from scores to rewards to advantages, by the estimator of the recipe.

To add an estimator: a function here, in ESTIMATORS, and its name in `ppo.advantage`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from align.objectives.gae import gae
from align.objectives.group import leave_one_out, standardised
from align.objectives.importance import truncated_weights
from align.objectives.masked import mean_and_var, moments, whiten_with
from align.objectives.ppo import against_reference, shaped_scores, token_rewards
from align.ppo.rollout import Rollout
from align.processes import distributed
from align.recipe.ppo import PPO


@dataclass(frozen=True)
class AdvantageEstimate:
    """What PPO learns from a rollout, [B, T] each, 0 at padding."""

    rewards: Tensor
    advantages: Tensor  # whitened if asked for, and weighted for the engine's probabilities
    returns: Tensor | None  # what the value model is to say; None where there is none


Found = tuple[Tensor, Tensor | None]  # advantages [B, T], and returns [B, T] where a value model learns
Estimator = Callable[[PPO, Rollout, Tensor, Accelerator], Found]  # takes rewards [B, T]


def estimate(
    cfg: PPO, rollout: Rollout, kl_coef: float, score_std: float, accel: Accelerator
) -> AdvantageEstimate:
    """Rewards, advantages and returns; kl_coef: of this rollout. Scores are divided by score_std."""
    mask = rollout.response_mask
    rewards = kl_rewards(cfg, rollout, kl_coef, score_std)
    advantages, returns = ESTIMATORS[cfg.advantage](cfg, rollout, rewards, accel)
    if cfg.whiten_advantages:
        mean, var = mean_and_var(*distributed.total(torch.stack(moments(advantages, mask)), accel))
        advantages = whiten_with(advantages, mask, mean, var)
    return AdvantageEstimate(rewards, advantages * importance(cfg, rollout), returns)


def kl_rewards(cfg: PPO, rollout: Rollout, kl_coef: float, score_std: float) -> Tensor:
    """Rewards [B, T]: shaped scores, and the KL penalty where it is part of the rewards."""
    mask = rollout.response_mask
    scores = shaped_scores(
        worth(cfg, rollout, score_std),
        mask.sum(1),
        rollout.eos,
        clip=cfg.score_clip,
        length_penalty=cfg.length_penalty,
        missing_eos_penalty=cfg.missing_eos_penalty,
    )
    coef = kl_coef if cfg.kl_in == "reward" else 0.0
    return token_rewards(scores, rollout.old_logprobs, rollout.ref_logprobs, mask, coef, cfg.kl_estimator)


def worth(cfg: PPO, rollout: Rollout, score_std: float) -> Tensor:
    """Scores [B] over score_std, and as ppo.reward_shape says; neither cut nor penalised."""
    scores = rollout.scores / score_std
    if cfg.reward_shape == "none":
        return scores
    assert rollout.reference_scores is not None
    return against_reference(scores, rollout.reference_scores / score_std, cfg.reward_shape)


def importance(cfg: PPO, rollout: Rollout) -> Tensor:
    """Factors of the advantages [B, T] that correct for the engine's probabilities; 1 without a cap."""
    if cfg.importance_cap is None:
        return torch.ones_like(rollout.old_logprobs)
    return truncated_weights(
        rollout.old_logprobs, rollout.engine_logprobs, rollout.response_mask, cfg.importance_cap
    )


def _gae(cfg: PPO, rollout: Rollout, rewards: Tensor, _: Accelerator) -> Found:
    """GAE, whose returns may have a lambda of their own (decoupled GAE: VC-PPO, 2503.01491)."""
    assert rollout.old_values is not None
    told = rewards, rollout.old_values, rollout.response_mask, cfg.gamma
    advantages, returns = gae(*told, cfg.gae_lambda)
    if cfg.value_gae_lambda is not None:
        _, returns = gae(*told, cfg.value_gae_lambda)
    return advantages, returns


def _reinforce(cfg: PPO, rollout: Rollout, rewards: Tensor, _: Accelerator) -> Found:
    """REINFORCE++ (2501.03262): the rewards that follow a token, with no baseline but the rollout's mean."""
    mask = rollout.response_mask
    return gae(rewards, torch.zeros_like(rewards), mask, cfg.gamma, 1.0)[0], None


def _by_group(compare: Callable[[Tensor], Tensor]) -> Estimator:
    """All tokens of a response have the advantage that it has among the responses to its prompt."""

    def found(cfg: PPO, rollout: Rollout, rewards: Tensor, accel: Accelerator) -> Found:
        whole = distributed.gather_rows(rewards.sum(1), accel)  # a prompt's responses lie on any process
        compared = compare(whole.view(-1, cfg.responses_per_prompt)).flatten()
        mine = compared[accel.process_index :: accel.num_processes]
        return mine[:, None] * rollout.response_mask, None

    return found


ESTIMATORS: Mapping[str, Estimator] = {
    "gae": _gae,
    "rloo": _by_group(leave_one_out),
    "group": _by_group(standardised),
    "reinforce++": _reinforce,
}
