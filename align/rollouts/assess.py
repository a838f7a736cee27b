"""From sampled responses to a rollout: every number that PPO needs, each computed once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from align.data.batches import collate, microbatches
from align.models.forward import Forward, Trunk
from align.rollouts.params import Sampled
from align.rollouts.rewards import Rewards
from align.rollouts.rollout import Rollout
from align.rollouts.sources import Texts


@torch.no_grad()
def assess(
    forward: Forward,
    sampled: list[Sampled],
    rewards: Rewards,
    texts: Texts | None,
    *,
    temperature: float,
    eos_id: int,
    pad_id: int,
    microbatch_tokens: int,
) -> Rollout:
    """Run each response once through every role; sequences of like length share a microbatch.

    `texts`: the responses as text, where a source of rewards reads text.
    """
    device = forward.roles.base.device
    sizes = [(1, len(s.prompt) + len(s.response)) for s in sampled]
    trunks: dict[int, Trunk] = {}
    fields: dict[str, dict[int, Tensor]] = {name: {} for name in ("old", "reference", "entropy", "value")}
    said: dict[str, dict[int, Tensor]] = {name: {} for name in rewards.roles}
    groups = microbatches(sizes, microbatch_tokens)
    idle = forward.more_elsewhere(len(groups))
    for rows in groups:
        trunk = forward.trunk(collate([(sampled[i].prompt, sampled[i].response) for i in rows], pad_id))
        if forward.roles.adapter_of("value") == "policy":
            old, entropy, _, value = forward.logprobs_and_values("policy", "value", trunk, temperature)
        else:
            old, entropy, _ = forward.logprobs("policy", trunk, temperature)
            value = forward.values("value", trunk)
        reference, _, _ = forward.logprobs("reference", trunk, temperature)
        found = {
            "old": old,
            "entropy": entropy,
            "reference": reference,
            "value": value,
        }
        scores = rewards.adapters(forward, trunk)
        for position, (row, part) in enumerate(zip(rows, trunk.rows(), strict=True)):
            trunks[row] = part
            for name, values in found.items():
                fields[name][row] = values[position]
            for name, values in scores.items():
                said[name][row] = values[position]
    own = [] if forward.roles.adapter_of("value") == "policy" else ["value"]
    forward.idle(idle, ["policy", "reference", *own, *rewards.roles.values()])
    counts = [len(s.response) for s in sampled]

    def padded(name: str) -> Tensor:
        parts = [fields[name][i][: counts[i]] for i in range(len(sampled))]
        return pad_sequence(parts, batch_first=True)

    stacked = {name: torch.stack([of[i] for i in range(len(sampled))]) for name, of in said.items()}
    judged = rewards.all(stacked, texts, device)
    engine = [torch.tensor(s.logprobs, device=device) for s in sampled]
    return Rollout(
        trunks=[trunks[i] for i in range(len(sampled))],
        response_mask=pad_sequence(
            [torch.ones(n, dtype=torch.bool, device=device) for n in counts], batch_first=True
        ),
        old_logprobs=padded("old"),
        ref_logprobs=padded("reference"),
        entropies=padded("entropy"),
        old_values=padded("value"),
        scores=judged.scores,
        parts=judged.parts,
        eos=torch.tensor([s.response[-1] == eos_id for s in sampled], device=device),
        engine_logprobs=pad_sequence(engine, batch_first=True),
    )
