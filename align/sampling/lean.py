"""Rows that a `LeanDecoder` reads token after token: buffers made once, steps that a CUDA graph can hold."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from align.errors import ran_out_of_memory
from align.models.forward import agree
from align.models.lean_decoder import LeanDecoder, copied_bytes, suits
from align.models.probe_ids import probe_ids
from align.models.roles import Roles
from align.processes.hardware import gpu_memory
from align.run.hub import first_line
from align.run.memory import size
from align.sampling.cache import right

Step = Callable[[], Tensor]
Capture = Callable[[Step], Step]

_COLUMNS = 32  # by so many grows what a step reads of the cache
_CAPTURED_COLUMNS = 256  # the same where each width costs a capture
_SHARE = 2  # base and merged copy together are this part of a GPU's memory at most


@dataclass(frozen=True)
class Lean:
    """How a base's lean decoder is used.

    merge: adapters are folded into a copy of the weights. capture: makes a CUDA graph of a step; None: no
    graphs, and why not where a GPU could have them.
    """

    merge: bool
    capture: Capture | None = None
    why_not: str | None = None

    def remarks(self) -> list[str]:
        """What is slower than it should be, and why."""
        return [f"sampling runs without CUDA graphs: {self.why_not}"] if self.why_not else []

    @contextmanager
    def decoder(self, roles: Roles) -> Iterator[LeanDecoder]:
        """The active role's, as its weights are now; a copy of them lasts as long as this does."""
        yield LeanDecoder(roles.decoder, roles.adapter_of(roles.active or ""), self.merge)


class LeanReading:
    """Rows that a lean decoder reads token after token; `Reading` says what the methods do.

    room: how many tokens may follow the longest row.
    """

    def __init__(
        self, decoder: LeanDecoder, capture: Capture | None, rows: list[list[int]], pad_id: int, room: int
    ) -> None:
        self._decoder, self._capture = decoder, capture
        self.refused: str | None = None  # why a step could not be captured
        width = max(map(len, rows))
        device = decoder.device
        self._ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=device)
        self._lengths = torch.tensor([len(row) for row in rows], device=device)
        self._longest, self._more = width, _CAPTURED_COLUMNS if capture else _COLUMNS
        self._room = math.ceil((width + room) / self._more) * self._more
        self._rotation = decoder.rotation(self._room)
        self._cache: list[Tensor] = []
        self._placed = False  # whether the cache has its room
        self._graph: tuple[int, Step | None] | None = None  # of how many columns; None: it has run once

    def read(self) -> Tensor:
        """The last hidden state [B, D] of each row, which the next call may overwrite."""
        if not self._cache:
            hidden, self._cache = self._decoder.prompts(self._ids, self._lengths)
            return hidden
        hidden = self._step(min(self._room, math.ceil((self._longest + 1) / self._more) * self._more))
        self._lengths.add_(1)
        self._longest += 1
        return hidden

    def worth(self, left: int) -> bool:
        """Whether it pays to go on with so many rows alone; a graph holds one number of them."""
        return left * 2 <= len(self._lengths) if self._capture else left < len(self._lengths)

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows [N] alone; of the prompts' rows, one that stands there twice is two then."""
        if self._placed:
            for buffer in self._cache:
                buffer[: len(rows)] = buffer.index_select(0, rows)
            self._cache = [buffer[: len(rows)] for buffer in self._cache]
        else:
            self._place(rows)
        self._lengths, self._ids, self._graph = self._lengths[rows], self._ids[rows], None

    def append(self, tokens: Tensor) -> None:
        """Each row's next token [B], to be read."""
        if not self._placed:
            self._place(torch.arange(len(tokens), device=tokens.device))
        if self._ids.ndim > 1:
            self._ids = tokens.clone()
        else:
            self._ids.copy_(tokens)

    def _place(self, rows: Tensor) -> None:
        """Give these rows of the prompts' cache room for what follows."""
        for i, kept in enumerate(self._cache):
            buffer = kept.new_zeros(len(rows), self._room, *kept.shape[2:])  # what is masked must be finite
            buffer[:, : kept.shape[1]] = kept.index_select(0, rows)
            self._cache[i] = buffer
        self._placed = True

    def _step(self, columns: int) -> Tensor:
        step = partial(self._decoder.step, self._ids, self._lengths, self._cache, columns, self._rotation)
        if self._capture is None:
            return step()
        if self._graph is None or self._graph[0] != columns:
            self._graph = (columns, None)
            return step()  # libraries set themselves up in the first run, which no graph can hold
        if self._graph[1] is None:
            try:
                self._graph = (columns, self._capture(step))
            except RuntimeError as error:
                if ran_out_of_memory(error):
                    raise
                self._capture, self.refused = None, first_line(error)
                warnings.warn(f"sampling goes on without CUDA graphs: {self.refused}", stacklevel=2)
                return step()
        assert self._graph[1] is not None
        return self._graph[1]()


def captured(step: Step) -> Step:
    """The step as a CUDA graph, which runs its kernels again on the same addresses. Here they do not run."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        found = step()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


@torch.no_grad()
def find_lean(roles: Roles) -> Lean | None:
    """How to read this base with a lean decoder; None where a probe has other numbers than its own passes."""
    if roles.shard_group or not suits(roles.decoder):
        return None
    lean = Lean(merges(roles))

    def begin(rows: list[list[int]]) -> LeanReading:
        return LeanReading(decoder, None, rows, 0, room=4)

    with lean.decoder(roles) as decoder:
        if not right(roles, begin):
            return None
        return with_graphs(lean, roles, decoder, captured) if roles.base.device.type == "cuda" else lean


def with_graphs(lean: Lean, roles: Roles, decoder: LeanDecoder, capture: Capture) -> Lean:
    """Let steps be captured, if a probe shows that captured ones have the same numbers."""
    first, second, *tokens = probe_ids(roles.base, 14).split([5, 3, 2, 2, 2])
    found = []
    for capturing in (None, capture):
        reading = LeanReading(decoder, capturing, [first.tolist(), second.tolist()], 0, room=4)
        states = [reading.read().clone()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reason becomes a remark
            for token in tokens:
                reading.append(token)
                states.append(reading.read().clone())
        found.append(torch.stack(states))
    why = reading.refused or (None if agree(found[1], found[0]) else "captured steps give other numbers")
    return replace(lean, why_not=why) if why else replace(lean, capture=capture)


def merges(roles: Roles) -> bool:
    """Whether adapters are merged: a function of base and machine, so that a resumed run draws the same.

    Not on a CPU, where adapters cost little beside the base's own products.
    """
    whole = size(roles.base.parameters()) + copied_bytes(roles.decoder)
    return whole * _SHARE <= gpu_memory(roles.base.device)
