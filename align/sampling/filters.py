"""Sampling from the likelier tokens only; for people's eyes, never for PPO's rollouts."""

from __future__ import annotations

import torch
from torch import Tensor


def narrowed(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """What both leave of logits [B, V], first top_k, then top_p; None takes nothing."""
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    return logits if top_p is None else keep_top_p(logits, top_p)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits [B, V] of the k likeliest tokens, and -inf (arXiv 1805.04833); ties with the k-th stay."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits [B, V] of the fewest tokens that make up a probability of p, and -inf (arXiv 1904.09751)."""
    ordered, places = logits.sort(dim=-1, descending=True)
    probabilities = ordered.double().softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, places, before >= p)
    return logits.masked_fill(out, float("-inf"))
