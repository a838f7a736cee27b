"""Attention of packed rankings by blocks of tokens: blocks that see nothing of each other are left out.

torch's FlexAttention (arXiv 2412.05496) on a GPU. Without it a packed row's attention computes every pair of
its tokens, and reads a mask of L x L numbers in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface

BLOCK = 128  # tokens; rows are padded to a multiple
LONG = 1024  # tokens of a row from which on blocks are worth it
_COMPILED = 64  # kernels at most
_NAME = "align_blocks"


def sees(branch: Tensor) -> Callable[..., Tensor]:
    """Whether token q of row b sees token k: the prompt (0), and its own response, up to itself.

    branch [B, L] as in Packed.
    """

    def mask(b: Tensor, _: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & ((branch[b, k] == 0) | (branch[b, k] == branch[b, q]))

    return mask


def block_mask(branch: Tensor) -> BlockMask:
    """The pairs of blocks that a packed batch needs; branch [B, L], L a multiple of BLOCK."""
    rows, length = branch.shape
    return create_block_mask(sees(branch), rows, None, length, length, device=branch.device)


@contextmanager
def in_blocks(config: Any) -> Iterator[None]:
    """Let a decoder with this configuration attend by the BlockMask that it is given as attention_mask."""
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: query [B, H, L, d], key and value [B, G, L, d] -> [B, L, H, d].

    Raises ValueError for what it does not know (sinks, biases).
    """
    if not isinstance(attention_mask, BlockMask) or others.get("dropout"):
        raise ValueError("attention in blocks takes a BlockMask and no dropout")
    if more := [name for name in ("s_aux", "position_bias", "sinks") if others.get(name) is not None]:
        raise ValueError(f"attention in blocks has no {more[0]}")
    groups = query.shape[1] // key.shape[1]
    if groups & (groups - 1):  # kernels share keys among a power of two of heads
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    capped = None if softcap is None else _capped(softcap)
    found = _kernel(query.device.type)(
        query, key, value, score_mod=capped, block_mask=attention_mask, scale=scaling, enable_gqa=groups > 1
    )
    return found.transpose(1, 2).contiguous(), None


@cache
def _kernel(device: str) -> Callable[..., Tensor]:
    """One kernel for all lengths, so that a resumed run has the one that it had before.

    One row or several, with gradients or without, of queries or of keys too, are compiled apart: more often
    than torch allows by default. Beyond its limit it would compute all pairs; fullgraph makes that an error.
    """
    if device != "cuda":
        return flex_attention
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _COMPILED)
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


AttentionInterface.register(_NAME, _attend)
