"""Sampling with transformers' own forward pass and cache: the default engine, on any device.

A token is the inverse of its distribution function at a number u(seed, iteration, row, position), so
a row's response depends on nothing but its prompt, the policy and that number: not on its batch, not
on the process that samples it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from align.data.batches import generator, microbatches
from align.models.roles import Roles
from align.rollouts.rollout import Sampled

DECODING = 4  # a pass without activations to keep holds this many times the tokens of one that trains


def uniforms(seed: int, name: str, step: int, rows: list[int], length: int) -> Tensor:
    """Numbers in [0, 1), float64 [rows, length]; a row's are a function of (seed, name, step, row)."""
    drawn = [
        torch.rand(length, generator=generator(seed, name, step, row), dtype=torch.float64) for row in rows
    ]
    return torch.stack(drawn)


@torch.no_grad()
def sample(
    roles: Roles,
    role: str,
    prompts: list[list[int]],
    draws: Tensor,
    *,
    temperature: float,
    eos_id: int,
    pad_id: int,
    batch_tokens: int,
) -> list[Sampled]:
    """A response to each prompt by the role's policy, at most draws.shape[1] tokens long.

    Prompts of like length are decoded together, as many as stay within `batch_tokens` at full length;
    finished rows leave the batch.
    """
    roles.activate(role)
    sizes = [(1, len(prompt) + draws.shape[1]) for prompt in prompts]
    done: dict[int, Sampled] = {}
    for rows in microbatches(sizes, batch_tokens):
        part = _decode(roles, [prompts[i] for i in rows], draws[rows], temperature, eos_id, pad_id)
        done.update(zip(rows, part, strict=True))
    return [done[i] for i in range(len(prompts))]


def _decode(
    roles: Roles, prompts: list[list[int]], draws: Tensor, temperature: float, eos_id: int, pad_id: int
) -> list[Sampled]:
    device = roles.base.device
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
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
        tokens, chosen = _draw(head(hidden).float() / temperature, draws[alive, step])
        for row, token, logprob in zip(alive.tolist(), tokens.tolist(), chosen.tolist(), strict=True):
            responses[row].append(token)
            logprobs[row].append(logprob)
        going = tokens != eos_id
        if not going.any():
            break
        positions = positions[:, -1:] + 1
        if not going.all():
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            alive, tokens, mask, positions = alive[kept], tokens[kept], mask[kept], positions[kept]
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return [Sampled(p, r, lp) for p, r, lp in zip(prompts, responses, logprobs, strict=True)]


def _draw(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B] at the distribution function's inverse of u [B], and their log probabilities [B]."""
    logprobs = logits.log_softmax(-1)
    cdf = logprobs.double().exp_().cumsum(-1)
    tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
    tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
