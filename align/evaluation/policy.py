"""What PPO changed: policy and reference answer the same held-out prompts with the same random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from align.data.batches import collate
from align.models.forward import Forward
from align.recipe import PPO
from align.rollouts.hf import sample, uniforms
from align.rollouts.rollout import Sampled
from align.runtime import distributed


@dataclass(frozen=True)
class Answered:
    """One held-out prompt with the answers of the reference (the SFT policy) and of the policy."""

    prompt: str
    reference: str
    policy: str
    reference_score: float
    policy_score: float
    kl: float  # nats: log p(policy) - log p(reference), summed over the policy's response
    reference_length: int
    policy_length: int
    reference_eos: bool
    policy_eos: bool

    def row(self) -> dict[str, object]:
        return asdict(self)


@torch.no_grad()
def answer(
    forward: Forward,
    prompts: Sequence[list[int]],
    cfg: PPO,
    *,
    seed: int,
    eos_id: int,
    pad_id: int,
    tokenizer: PreTrainedTokenizerBase,
    accel: Accelerator,
) -> list[Answered]:
    """Answer every prompt once with each policy; scores are the reward model's own, without penalties."""
    rows = distributed.share(list(range(len(prompts))), accel)
    mine = [prompts[i] for i in rows]
    if not mine:
        return distributed.gather_lists([], accel)
    draws = uniforms(seed, "held-out", 0, rows, cfg.max_response_tokens)
    found = {
        role: sample(
            forward.roles,
            role,
            mine,
            draws,
            temperature=cfg.temperature,
            eos_id=eos_id,
            pad_id=pad_id,
            batch_size=cfg.microbatch_size * 4,
        )
        for role in ("reference", "policy")
    }
    reference_scores, _ = _judge(forward, found["reference"], cfg, pad_id, with_kl=False)
    policy_scores, kl = _judge(forward, found["policy"], cfg, pad_id, with_kl=True)
    answered = []
    for i, prompt in enumerate(mine):
        old, new = found["reference"][i], found["policy"][i]
        answered.append(
            Answered(
                prompt=tokenizer.decode(prompt, skip_special_tokens=True),
                reference=tokenizer.decode(old.response, skip_special_tokens=True),
                policy=tokenizer.decode(new.response, skip_special_tokens=True),
                reference_score=reference_scores[i],
                policy_score=policy_scores[i],
                kl=kl[i],
                reference_length=len(old.response),
                policy_length=len(new.response),
                reference_eos=old.response[-1] == eos_id,
                policy_eos=new.response[-1] == eos_id,
            )
        )
    return distributed.gather_lists(answered, accel)


def summary(answered: list[Answered]) -> dict[str, float]:
    """Means over the held-out prompts."""
    if not answered:
        return {}
    return {
        "eval/score": fmean(a.policy_score for a in answered),
        "eval/reference_score": fmean(a.reference_score for a in answered),
        "eval/kl": fmean(a.kl for a in answered),
        "eval/length": fmean(a.policy_length for a in answered),
        "eval/eos": fmean(a.policy_eos for a in answered),
        "eval/prompts": len(answered),
    }


def _judge(
    forward: Forward, sampled: list[Sampled], cfg: PPO, pad_id: int, with_kl: bool
) -> tuple[list[float], list[float]]:
    """Scores, and log p(policy) - log p(reference) summed over each response (0 without `with_kl`)."""
    scores, kl = [0.0] * len(sampled), [0.0] * len(sampled)
    by_length = sorted(range(len(sampled)), key=lambda i: len(sampled[i].prompt) + len(sampled[i].response))
    for start in range(0, len(sampled), cfg.microbatch_size):
        rows = by_length[start : start + cfg.microbatch_size]
        trunk = forward.trunk(collate([(sampled[i].prompt, sampled[i].response) for i in rows], pad_id))
        for row, score in zip(rows, forward.scores("reward", trunk).tolist(), strict=True):
            scores[row] = score
        if with_kl:
            policy, _, _ = forward.logprobs("policy", trunk, cfg.temperature)
            reference, _, _ = forward.logprobs("reference", trunk, cfg.temperature)
            for row, nats in zip(rows, (policy - reference).sum(1).tolist(), strict=True):
                kl[row] = nats
    return scores, kl
