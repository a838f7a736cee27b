"""A ranking in one row: the prompt once, its K responses behind it, as if each stood there alone.

A response's token sees the prompt and its own response up to itself, and its position continues the
prompt's. Each token's hidden state is then that of separate rows, for P + sum(R_k) tokens instead of
K * P + sum(R_k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from align.data.tokenize import Encoded
from align.models.batch import Batch, collate


@dataclass(frozen=True)
class Packed:
    """B rankings, a row each, padded on the right to the longest, L; they have N responses together."""

    input_ids: Tensor  # [B, L] int64
    positions: Tensor  # [B, L] int64
    branch: Tensor  # [B, L] int64: 0 in the prompt, 1 to K in the responses, -1 at padding
    rows: Tensor  # [N] int64: where each response's last token stands
    columns: Tensor  # [N] int64

    def padded(self, multiple: int) -> Packed:
        """The same with L a multiple of this."""
        right = (0, -self.input_ids.shape[1] % multiple)
        ids, positions = (F.pad(x, right) for x in (self.input_ids, self.positions))
        return replace(self, input_ids=ids, positions=positions, branch=F.pad(self.branch, right, value=-1))

    def inputs(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the model takes beside the ids: the positions, and the mask [B, 1, L, L] that is added.

        The mask is a number a pair of tokens, 0 or the lowest: sdpa would turn booleans into that anew in
        every layer, and eager attention takes nothing else. Padding sees itself, so no row is empty
        (a softmax over nothing is nan), and is seen by no real token.
        """
        branch = self.branch.to(device)
        sees = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        sees &= torch.ones(sees.shape[1:], dtype=torch.bool, device=device).tril()
        mask = torch.zeros(sees.shape, dtype=dtype, device=device)
        mask.masked_fill_(~sees, torch.finfo(dtype).min)
        return {"attention_mask": mask.unsqueeze(1), "position_ids": self.positions.to(device)}


def pack(rankings: Sequence[Encoded]) -> Packed:
    """Lay each ranking out in a row; responses come in the rankings' order."""
    if not rankings:
        raise ValueError("pack needs at least one ranking")
    ids, positions, branches = [], [], []
    rows: list[int] = []
    columns: list[int] = []
    for row, ranking in enumerate(rankings):
        start = len(ranking.prompt)
        tokens, places, branch = list(ranking.prompt), list(range(start)), [0] * start
        for number, response in enumerate(ranking.responses, 1):
            tokens += response
            places += range(start, start + len(response))
            branch += [number] * len(response)
            rows.append(row)
            columns.append(len(tokens) - 1)
        ids.append(torch.tensor(tokens))
        positions.append(torch.tensor(places))
        branches.append(torch.tensor(branch))
    return Packed(
        pad_sequence(ids, batch_first=True),
        pad_sequence(positions, batch_first=True),
        pad_sequence(branches, batch_first=True, padding_value=-1),
        torch.tensor(rows),
        torch.tensor(columns),
    )


def separate_rows(rankings: Sequence[Encoded]) -> Batch:
    """The same responses in the same order, each in a row of its own behind a prompt of its own."""
    return collate([(r.prompt, response) for r in rankings for response in r.responses])


def in_parts(ranking: Encoded, tokens: int, share_prompt: bool) -> list[Encoded]:
    """The ranking's responses in order, as many at a time as take at most `tokens` tokens, one at least."""
    parts: list[Encoded] = []
    for response in ranking.responses:
        wider = Encoded(ranking.prompt, [*(parts[-1].responses if parts else []), response])
        rows, longest = size(wider, share_prompt)
        if parts and rows * longest <= tokens:
            parts[-1] = wider
        else:
            parts.append(Encoded(ranking.prompt, [response]))
    return parts


def size(ranking: Encoded, share_prompt: bool) -> tuple[int, int]:
    """How many rows a ranking takes, and the tokens of the longest."""
    lengths = [len(response) for response in ranking.responses]
    if share_prompt:
        return 1, len(ranking.prompt) + sum(lengths)
    return len(lengths), len(ranking.prompt) + max(lengths)
