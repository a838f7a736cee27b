"""Which rows a step trains on, and how they become one padded batch.

All draws are functions of the seed and of names: nothing depends on what was drawn before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by a hash of (seed, names).

    torch's CPU generator uses the lower 32 bits of a seed, so the hash is cut to these: among 10,000
    generators, two are alike with a chance of about 1%.
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def order(seed: int, stage: str, epoch: int, n: int) -> list[int]:
    """A permutation of range(n), a function of the arguments only."""
    return torch.randperm(n, generator=generator(seed, stage, "order", epoch)).tolist()


def step_rows(seed: int, stage: str, step: int, batch_size: int, n: int) -> list[int]:
    """The rows of global step `step` (from 0): a slice of all epochs' orders, one behind the other.

    A batch may reach over the end of an epoch, or over several; each epoch has every row exactly once.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"step_rows needs n >= 1 and batch_size >= 1, not {n} and {batch_size}")
    start, stop = step * batch_size, (step + 1) * batch_size
    rows: list[int] = []
    for epoch in range(start // n, (stop - 1) // n + 1):
        first = epoch * n
        rows += order(seed, stage, epoch, n)[max(start - first, 0) : stop - first]
    return rows


def microbatches(sizes: Sequence[tuple[int, int]], tokens: int) -> list[list[int]]:
    """Group items into forward passes of at most `tokens` tokens, padding included; gives their indices.

    sizes: (rows, tokens of the longest row) of each item. Items of like length come together, the
    longest first, so what does not fit into memory fails in the first pass. An item that is larger
    than the budget has a pass of its own.
    """
    groups: list[list[int]] = []
    rows, longest = 0, 0
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][1]):
        if not groups or (rows + sizes[i][0]) * longest > tokens:
            groups.append([])
            rows, longest = 0, sizes[i][1]
        groups[-1].append(i)
        rows += sizes[i][0]
    return groups


@dataclass(frozen=True)
class Batch:
    """B sequences of prompt and response, padded on the right to the longest, L."""

    input_ids: Tensor  # [B, L] int64
    attention_mask: Tensor  # [B, L] bool, True at real tokens whatever their ids are
    prompt_lengths: Tensor  # [B] int64
    lengths: Tensor  # [B] int64, prompt and response


def collate(pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """Pad (prompt ids, response ids) on the right; the mask comes from the lengths, so pad may equal EOS."""
    if not pairs:
        raise ValueError("collate needs at least one sequence")
    rows = [torch.tensor(prompt + response, dtype=torch.int64) for prompt, response in pairs]
    lengths = torch.tensor([len(row) for row in rows])
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
    return Batch(
        input_ids=input_ids,
        attention_mask=torch.arange(input_ids.shape[1])[None, :] < lengths[:, None],
        prompt_lengths=torch.tensor([len(prompt) for prompt, _ in pairs]),
        lengths=lengths,
    )
