"""How sequences become padded batches, and what all roles have in common of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Pair = tuple[list[int], list[int]]  # the token ids of a prompt and of a response


@dataclass(frozen=True)
class Batch:
    """B sequences of prompt and response, padded on the right to the longest, L."""

    input_ids: Tensor  # [B, L] int64
    attention_mask: Tensor  # [B, L] bool, True at real tokens whatever their ids are
    prompt_lengths: Tensor  # [B] int64
    lengths: Tensor  # [B] int64, prompt and response


def collate(pairs: Sequence[Pair], pad_id: int = 0) -> Batch:
    """Pad pairs on the right. Lengths tell what is padding, so any id that the base has will do."""
    if not pairs:
        raise ValueError("collate needs at least one sequence")
    rows = [torch.tensor(prompt + response, dtype=torch.int64) for prompt, response in pairs]
    lengths = torch.tensor([len(row) for row in rows])
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    return Batch(
        input_ids=input_ids,
        attention_mask=torch.arange(input_ids.shape[1])[None, :] < lengths[:, None],
        prompt_lengths=torch.tensor([len(prompt) for prompt, _ in pairs]),
        lengths=lengths,
    )


@dataclass
class PrefixStates:
    """What all roles have in common of a batch: the hidden states below the lowest adapter.

    `hidden` is [B, L, D] where the lower layers could be run apart, else None and `input_ids` [B, L]
    go through the whole model. `attention_mask` [B, L] is True at real tokens, which come first.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_lengths: Tensor
    lengths: Tensor
    hidden: Tensor | None

    def rows(self) -> list[PrefixStates]:
        """The states of each row by itself, without padding, to be collated anew by `stack`."""
        return [
            PrefixStates(
                self.input_ids[i : i + 1, :n],
                self.attention_mask[i : i + 1, :n],
                self.prompt_lengths[i : i + 1],
                self.lengths[i : i + 1],
                None if self.hidden is None else self.hidden[i : i + 1, :n].clone(),
            )
            for i, n in enumerate(self.lengths.tolist())
        ]


def stack(rows: Sequence[PrefixStates]) -> PrefixStates:
    """Collate the states of single rows, right-padded to the longest."""

    def padded(parts: list[Tensor]) -> Tensor:
        return pad_sequence([p[0] for p in parts], batch_first=True)

    hidden = [row.hidden for row in rows if row.hidden is not None]
    return PrefixStates(
        padded([row.input_ids for row in rows]),
        padded([row.attention_mask for row in rows]),
        torch.cat([row.prompt_lengths for row in rows]),
        torch.cat([row.lengths for row in rows]),
        padded(hidden) if hidden else None,
    )


def response_positions(prefix: PrefixStates) -> tuple[Tensor, Tensor]:
    """Where response tokens are predicted [B, T] (one place before they stand), and the response mask."""
    counts = prefix.lengths - prefix.prompt_lengths
    offsets = torch.arange(int(counts.max()), device=counts.device)
    mask = offsets < counts.unsqueeze(1)
    at = (prefix.prompt_lengths.unsqueeze(1) - 1 + offsets).clamp(max=prefix.input_ids.shape[1] - 1)
    return at, mask
