"""Sampling with transformers' own forward pass and cache: the default engine, on any device.

A token is the inverse of its distribution function at a number u(seed, iteration, row, position), so
a row's response depends on nothing but its prompt, the policy and that number: not on its batch, not
on the process that samples it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from align.models.passes import microbatches
from align.models.roles import Roles
from align.rollouts.engine import Terms
from align.rollouts.params import Sampled
from align.runtime.distributed import highest
from align.seeds import generator


@dataclass(frozen=True)
class Hf:
    """The policy itself samples: there is nothing to hand over."""

    roles: Roles
    terms: Terms
    seed: int

    def update(self) -> None:
        """The roles are the policy."""

    def sample(self, prompts: list[list[int]], rows: list[int], iteration: int) -> list[Sampled]:
        draws = uniforms(self.seed, "ppo", iteration, rows, self.terms.max_tokens)
        return sample(self.roles, "policy", prompts, draws, self.terms)

    def close(self) -> None:
        """Nothing is held."""


def uniforms(seed: int, name: str, step: int, rows: list[int], length: int) -> Tensor:
    """Numbers in [0, 1), float64 [rows, length]; a row's are a function of (seed, name, step, row)."""
    drawn = [
        torch.rand(length, generator=generator(seed, name, step, row), dtype=torch.float64) for row in rows
    ]
    return torch.stack(drawn) if drawn else torch.empty(0, length, dtype=torch.float64)


@torch.no_grad()
def sample(
    roles: Roles,
    role: str,
    prompts: list[list[int]],
    draws: Tensor,
    terms: Terms,
    narrow: Callable[[Tensor], Tensor] | None = None,
    heard: Callable[[int], object] | None = None,
) -> list[Sampled]:
    """A response to each prompt by the role's policy, at most draws.shape[1] tokens long.

    `narrow` takes tokens out of logits [B, V] (PPO never does: its ratios are of whole distributions);
    `heard` is told each token as it comes, which makes sense for one prompt. Prompts of like length are
    decoded together, as many as stay within the budget at full length; rows that follow each other with the
    same prompt share its pass. Finished rows leave the batch.
    """
    roles.activate(role)
    groups = _alike(prompts, draws.shape[1], terms.batch_tokens)
    sizes = [(len(group), len(prompts[group[0]]) + draws.shape[1]) for group in groups]
    done: dict[int, Sampled] = {}
    chosen = microbatches(sizes, terms.batch_tokens)
    idle = roles.more_elsewhere(len(chosen))
    for numbers in chosen:
        parts = [groups[i] for i in numbers]
        rows = [row for part in parts for row in part]
        asked = [(prompts[part[0]], len(part)) for part in parts]
        found = _decode(roles, asked, draws[rows], terms, narrow, heard)
        done.update(zip(rows, found, strict=True))
    for _ in range(idle):
        roles.idle()
        _outlast(roles)
    return [done[i] for i in range(len(prompts))]


def _alike(prompts: list[list[int]], length: int, tokens: int) -> list[list[int]]:
    """Neighbours with the same prompt, no more than fit into the budget together."""
    groups: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        group = groups[-1] if groups else []
        room = (len(group) + 1) * (len(prompt) + length) <= tokens
        if group and room and prompts[group[0]] == prompt:
            group.append(row)
        else:
            groups.append([row])
    return groups


def _decode(
    roles: Roles,
    asked: list[tuple[list[int], int]],
    draws: Tensor,
    terms: Terms,
    narrow: Callable[[Tensor], Tensor] | None,
    heard: Callable[[int], object] | None,
) -> list[Sampled]:
    """Responses to prompts, each asked for so many times in succession."""
    device = roles.base.device
    prompts = [prompt for prompt, count in asked for _ in range(count)]
    width = max(map(len, prompts))
    ids = torch.tensor([[terms.pad_id] * (width - len(p)) + p for p, _ in asked], device=device)
    lengths = torch.tensor([len(p) for p, _ in asked], device=device)
    mask = torch.arange(width, device=device) >= (width - lengths)[:, None]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    draws = draws.to(device)
    cache = DynamicCache(config=roles.base.config)
    responses: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts), device=device)
    head = roles.base.get_output_embeddings()
    for step in range(draws.shape[1]):
        hidden = roles.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        if len(hidden) < len(alive):  # after the prompts' pass, a row for each response
            counts = torch.tensor([count for _, count in asked], device=device)
            source = torch.arange(len(asked), device=device).repeat_interleave(counts)
            cache.batch_select_indices(source)
            hidden, mask, positions = hidden[source], mask[source], positions[source]
        barred = terms.eos_id if step < terms.min_tokens else None
        tokens, chosen = draw(head(hidden).float() / terms.temperature, draws[alive, step], barred, narrow)
        for row, token, logprob in zip(alive.tolist(), tokens.tolist(), chosen.tolist(), strict=True):
            responses[row].append(token)
            logprobs[row].append(logprob)
            if heard is not None:
                heard(token)
        going = tokens != terms.eos_id
        if not going.any() or step + 1 == draws.shape[1]:
            break
        _any(True, roles)
        positions = positions[:, -1:] + 1
        if not going.all():
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            alive, tokens, mask, positions = alive[kept], tokens[kept], mask[kept], positions[kept]
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    _outlast(roles)
    return [Sampled(p, r, lp) for p, r, lp in zip(prompts, responses, logprobs, strict=True)]


def _outlast(roles: Roles) -> None:
    """With a sharded base, go on until no process has a token to sample in this batch."""
    while _any(False, roles):
        roles.idle()


def _any(samples: bool, roles: Roles) -> bool:
    """Whether a process that shares the base has one more token to sample; every process asks after each."""
    return bool(highest(int(samples), roles.together)) if roles.together else samples


def draw(
    logits: Tensor,
    u: Tensor,
    barred: int | None = None,
    narrow: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens [B] at the distribution function's inverse of u [B], and their log probabilities [B].

    logits [B, V], written over; `barred` is a token that has no probability; `narrow` takes out others.
    """
    if barred is not None:
        logits[:, barred] = float("-inf")
    if narrow is not None:
        logits = narrow(logits)
    logprobs = logits.log_softmax(-1)
    cdf = logprobs.double().exp_().cumsum(-1)
    tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
    tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
