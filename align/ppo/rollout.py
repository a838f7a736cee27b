"""A rollout: sampled responses with all that PPO needs of them, one shape a field."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from align.models.batch import PrefixStates, collate
from align.models.forward import Forward
from align.models.passes import PAIRS, passes
from align.rewards.external import Texts
from align.rewards.rewards import Rewards
from align.sampling.params import Sampled


@dataclass(frozen=True)
class Rollout:
    """Responses of this process (B rows, T = longest response). Padding holds 0 in every [B, T] field."""

    sampled: list[Sampled]  # B responses as token ids, with their prompts
    prefixes: list[PrefixStates]  # B single rows
    response_mask: Tensor  # [B, T] bool
    old_logprobs: Tensor  # [B, T] of the policy that sampled, by the training forward
    ref_logprobs: Tensor  # [B, T]
    entropies: Tensor  # [B, T]
    old_values: Tensor | None  # [B, T]; None where there is no value model
    scores: Tensor  # [B] the weighted sum of the sources of rewards, penalties not yet taken off
    parts: dict[str, Tensor]  # what each source said, [B], by its name
    eos: Tensor  # [B] bool, whether the response ended by itself
    engine_logprobs: Tensor  # [B, T] as the engine saw them
    # [B, M] the SFT policy's own responses to the same prompts, with ppo.reward_shape
    reference_scores: Tensor | None = None
    disagreement: Tensor | None = None  # [B] of the members of reward models, where one has several


@torch.no_grad()
def score_rollout(
    forward: Forward,
    sampled: list[Sampled],
    rewards: Rewards,
    texts: Texts | None,
    *,
    temperature: float,
    microbatch_tokens: int,
) -> Rollout:
    """Run each response once through every role; sequences of like length share a microbatch.

    `texts`: the responses as text, where a source of rewards reads text. Every process calls it together.
    """
    roles, device = forward.roles, forward.roles.base.device
    prefixes: dict[int, PrefixStates] = {}
    numbers: dict[str, dict[int, Tensor]] = defaultdict(dict)
    said: dict[str, dict[int, Tensor]] = defaultdict(dict)
    disagreement: dict[int, Tensor] = {}
    for part in passes(roles, [(s.prompt, s.response) for s in sampled], microbatch_tokens, PAIRS):
        prefix = forward.prefix(collate(part.items))
        for name, values in _token_numbers(forward, prefix, temperature).items():
            numbers[name].update(zip(part.rows, values, strict=False))
        adapters, apart = rewards.with_disagreement(forward, prefix)
        for name, scores in adapters.items():
            said[name].update(zip(part.rows, scores, strict=False))
        if apart is not None:
            disagreement.update(zip(part.rows, apart, strict=False))
        prefixes.update(zip(part.rows, prefix.rows(), strict=False))

    def padded(name: str) -> Tensor:
        rows = [numbers[name][i][: len(one.response)] for i, one in enumerate(sampled)]
        return pad_sequence(rows, batch_first=True)

    order = range(len(sampled))
    stacked = {name: torch.stack([said[name][i] for i in order]) for name in rewards.roles}
    scored = rewards.all(stacked, texts, device)
    ones = [torch.ones(len(one.response), dtype=torch.bool, device=device) for one in sampled]
    return Rollout(
        sampled=sampled,
        prefixes=[prefixes[i] for i in order],
        response_mask=pad_sequence(ones, batch_first=True),
        old_logprobs=padded("policy"),
        ref_logprobs=padded("reference"),
        entropies=padded("entropy"),
        old_values=padded("value") if "value" in roles.heads else None,
        scores=scored.scores,
        parts=scored.parts,
        eos=torch.tensor([one.response[-1] == forward.eos_id for one in sampled], device=device),
        engine_logprobs=pad_sequence(
            [torch.tensor(one.logprobs, device=device) for one in sampled], batch_first=True
        ),
        disagreement=torch.stack([disagreement[i] for i in order]) if disagreement else None,
    )


def _token_numbers(forward: Forward, prefix: PrefixStates, temperature: float) -> dict[str, Tensor]:
    """What policy, reference and value model say of each response token of a microbatch, [b, T] each."""
    found = {}
    if forward.roles.owner_of("value") == "policy":
        old, entropy, _, found["value"] = forward.logprobs_and_values("policy", "value", prefix, temperature)
    else:
        old, entropy, _ = forward.logprobs("policy", prefix, temperature)
        if "value" in forward.roles.heads:
            found["value"] = forward.values("value", prefix)
    reference, _, _ = forward.logprobs("reference", prefix, temperature)
    return found | {"policy": old, "entropy": entropy, "reference": reference}
