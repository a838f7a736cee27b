"""A policy that vLLM servers sample from, real or a stand-in, and how far they are from the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from align.models.batch import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.processes.distributed import accelerator
from align.recipe.sections import Lora
from align.sampling.params import Draws, Sampled, SamplingParams
from align.sampling.vllm import Vllm

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 6, 7]]
ROWS = [4, 5, 6, 7]
PARAMS = SamplingParams(temperature=0.8, eos_id=1, pad_id=0, max_tokens=8, batch_tokens=1000, min_tokens=3)


def draws(step: int, rows: Sequence[int] = ROWS) -> Draws:
    return Draws(3, "test", step, rows)


def policy_on(base: Path, rank: int = 4, layers: int | None = 2) -> Roles:
    """A policy that has moved, and the reference that it started from, on the upper layers or on all."""
    model = AutoModelForCausalLM.from_pretrained(base).requires_grad_(False).eval()
    roles = Roles(model)
    for role in ("policy", "reference"):
        lora = lora_config(Lora(rank=rank, alpha=8, targets=["q_proj", "v_proj"], layers=layers), model)
        roles.add(role, lora, trains=role == "policy")
    move(roles)
    return roles


def vllm(roles: Roles, folder: Path, *urls: str, told: list[str] | None = None, sleep: bool = False) -> Vllm:
    return Vllm(roles, urls, folder, accelerator(60), ([] if told is None else told).append, sleep)


def move(roles: Roles) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy").values():
            parameter.add_(torch.randn_like(parameter) / 3)


def gap(roles: Roles, sampled: list[Sampled], params: SamplingParams = PARAMS, role: str = "policy") -> float:
    """The largest difference to the trainer's log probabilities."""
    forward = Forward(roles, params.eos_id, params.min_tokens)
    batch = collate([(s.prompt, s.response) for s in sampled], pad_id=0)
    logprobs, _, _ = forward.logprobs(role, forward.prefix(batch), params.temperature)
    pairs = [
        (x, y) for i, s in enumerate(sampled) for x, y in zip(logprobs[i].tolist(), s.logprobs, strict=False)
    ]
    return max(abs(x - y) for x, y in pairs)
