"""What PPO changed: policy and reference answer the same held-out prompts with the same random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from statistics import fmean, stdev

import torch
from accelerate import Accelerator

from align.data.template import Template
from align.models.base import BaseCheckpoint
from align.models.batch import collate
from align.models.forward import Forward
from align.models.passes import PAIRS, passes
from align.processes import distributed
from align.recipe.ppo import PPO
from align.rewards.external import Texts
from align.rewards.rewards import Rewards, texts_of
from align.sampling.engines import sampling_params
from align.sampling.params import Draws, Engine, Sampled


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
    reference_guard: float | None = None  # scores of the second reward model, where there is one
    policy_guard: float | None = None

    def row(self) -> dict[str, object]:
        """The fields that are known, for a line of held_out.jsonl."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Answers:
    """This process's answers by one policy, with what they are worth."""

    sampled: list[Sampled]
    scores: list[float]
    kl: list[float]  # 0 of the reference itself
    guard: list[float] | None


@torch.no_grad()
def respond(
    engine: Engine,
    forward: Forward,
    role: str,
    prompts: Sequence[list[int]],
    cfg: PPO,
    rewards: Rewards,
    base: BaseCheckpoint,
    template: Template,
    *,
    seed: int,
    accel: Accelerator,
) -> Answers:
    """A role's answer to each prompt of this process's share.

    Random numbers are the same each time, so the reference's answers are too; scores have no penalties.
    """
    rows = distributed.share(list(range(len(prompts))), accel)
    if role == "policy":
        engine.update()
    draws = Draws(seed, "held-out", 0, rows)
    sampled = engine.sample([prompts[i] for i in rows], draws, sampling_params(cfg, base), role)
    texts = texts_of(rewards, sampled, prompts, rows, template) if rows else None
    return _judge(forward, sampled, cfg, rewards, texts, with_kl=role != "reference")


def compare(
    reference: Answers,
    policy: Answers,
    *,
    template: Template,
    accel: Accelerator,
) -> list[Answered]:
    """Both policies' answers of all processes, side by side."""
    answered = [
        Answered(
            prompt=template.prompt_text(new.prompt),
            reference=template.text(old.response),
            policy=template.text(new.response),
            reference_score=reference.scores[i],
            policy_score=policy.scores[i],
            kl=policy.kl[i],
            reference_length=len(old.response),
            policy_length=len(new.response),
            reference_eos=old.response[-1] == template.eos_id,
            policy_eos=new.response[-1] == template.eos_id,
            reference_guard=reference.guard[i] if reference.guard else None,
            policy_guard=policy.guard[i] if policy.guard else None,
        )
        for i, (old, new) in enumerate(zip(reference.sampled, policy.sampled, strict=True))
    ]
    return distributed.gather_lists(answered, accel)


def summary(answered: list[Answered]) -> dict[str, float]:
    """Means over the held-out prompts, and the standard errors (`_se`) of those that people compare."""
    if not answered:
        return {}
    found = {
        "eval/score": [a.policy_score for a in answered],
        "eval/reference_score": [a.reference_score for a in answered],
        "eval/gain": [a.policy_score - a.reference_score for a in answered],
        "eval/kl": [a.kl for a in answered],
        "guard/eval_score": [a.policy_guard for a in answered if a.policy_guard is not None],
        "guard/eval_reference_score": [a.reference_guard for a in answered if a.reference_guard is not None],
    }
    means = {}
    for key, values in found.items():
        if values:  # there may be no guard
            means[key] = fmean(values)
            means[f"{key}_se"] = standard_error(values)
    return means | {
        "eval/length": fmean(a.policy_length for a in answered),
        "eval/eos": fmean(a.policy_eos for a in answered),
        "eval/prompts": len(answered),
    }


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; nan of a single one, and where a value is not finite."""
    known = len(values) > 1 and all(map(isfinite, values))
    return stdev(values) / sqrt(len(values)) if known else float("nan")


def _judge(
    forward: Forward,
    sampled: list[Sampled],
    cfg: PPO,
    rewards: Rewards,
    texts: Texts | None,
    with_kl: bool,
) -> Answers:
    """Scores, and log p(policy) - log p(reference) summed over each response (0 without `with_kl`)."""
    kl, guard = torch.zeros(len(sampled)), torch.zeros(len(sampled))
    said = {name: torch.zeros(len(sampled)) for name in rewards.roles}
    guarded = "guard" in forward.roles.heads
    pairs = [(one.prompt, one.response) for one in sampled]
    for part in passes(forward.roles, pairs, cfg.microbatch_tokens, PAIRS):
        rows, prefix = part.rows, forward.prefix(collate(part.items))
        for name, found in rewards.adapters(forward, prefix).items():
            said[name][rows] = found[: len(rows)].cpu()
        if guarded:
            guard[rows] = forward.scores("guard", prefix)[: len(rows)].cpu()
        if with_kl:
            policy, _, _ = forward.logprobs("policy", prefix, cfg.temperature)
            reference, _, _ = forward.logprobs("reference", prefix, cfg.temperature)
            kl[rows] = (policy - reference).sum(1)[: len(rows)].cpu()
    if not sampled:
        return Answers([], [], [], None)
    scores = rewards.all(said, texts, torch.device("cpu")).scores
    return Answers(sampled, scores.tolist(), kl.tolist(), guard.tolist() if guarded else None)
