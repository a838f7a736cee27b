"""How rows become padded batches within a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
