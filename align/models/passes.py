"""One way to go through a batch: microbatches within a budget of tokens, the same number on all processes.

With a sharded base a pass of one process is a pass of all, so a process that has fewer microbatches goes
along with the others on a row that counts nothing: it has no response token and no comparison, so that its
losses are 0 with gradient 0, and what is read of it belongs to no row. A loop's body is the same for both,
so nobody lists which roles it runs, or counts passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from align.data.tokenize import Encoded
from align.models.batch import Pair, PrefixStates
from align.models.forward import Forward
from align.models.packed import size
from align.models.roles import Roles

T = TypeVar("T")


@dataclass(frozen=True)
class Layout(Generic[T]):
    """One kind of items: an item's rows with the tokens of the longest of them, and an item that is empty."""

    size: Callable[[T], tuple[int, int]]
    empty: T


@dataclass(frozen=True)
class Pass(Generic[T]):
    """A microbatch. `rows` says where its items stand among all; it is empty where the item is too."""

    rows: list[int]
    items: list[T]

    def take(self, values: Tensor, width: int) -> Tensor:
        """The rows of [B, T], cut to [b, width]; zeros [1, width] where there are none."""
        return values[self.rows, :width] if self.rows else values.new_zeros(1, width)


def passes(roles: Roles, items: Sequence[T], tokens: int, layout: Layout[T]) -> Iterator[Pass[T]]:
    """Microbatches of at most `tokens` tokens, padding included; then empty ones, until all are done.

    Every process calls it together. One without items has an empty microbatch, so that it too knows what
    is summed up.
    """
    groups = microbatches([layout.size(item) for item in items], tokens) or [[]]
    groups += [[]] * roles.more_elsewhere(len(groups))
    for rows in groups:
        yield Pass(rows, [items[i] for i in rows] or [layout.empty])


def microbatches(sizes: Sequence[tuple[int, int]], tokens: int, mixed: bool = True) -> list[list[int]]:
    """Group items into forward passes of at most `tokens` tokens, padding included; gives their indices.

    sizes: (rows, tokens of the longest row) of each item. Items of like length come together, the
    longest first, so what does not fit into memory fails in the first pass. An item that is larger
    than the budget has a pass of its own. Not `mixed`: those of one length alone come together.
    """
    groups: list[list[int]] = []
    rows, longest = 0, 0
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][1]):
        other = not mixed and sizes[i][1] != longest
        if not groups or other or (rows + sizes[i][0]) * longest > tokens:
            groups.append([])
            rows, longest = 0, sizes[i][1]
        groups[-1].append(i)
        rows += sizes[i][0]
    return groups


PAIRS: Layout[Pair] = Layout(lambda pair: (1, len(pair[0]) + len(pair[1])), ([0, 0], []))


def states(forward: Forward) -> Layout[PrefixStates]:
    """Rows whose lower layers have run already."""
    base = forward.roles.base
    device = base.device
    ids = torch.zeros(1, 2, dtype=torch.int64, device=device)
    length = torch.tensor([2], device=device)
    width = base.config.get_text_config().hidden_size
    hidden = torch.zeros(1, 2, width, dtype=base.dtype, device=device) if forward.split else None
    empty = PrefixStates(ids, torch.ones_like(ids, dtype=torch.bool), length, length, hidden)
    return Layout(lambda row: (1, int(row.lengths)), empty)


def rankings(share_prompt: bool) -> Layout[Encoded]:
    """Rankings, each in one row where the responses share a prompt, else in a row a response."""
    return Layout(lambda ranking: size(ranking, share_prompt), Encoded([0], [[0]]))
