"""What a base remembers of the rows that it decodes: found out by a probe at the start, not by a name.

Attention keeps keys and values, which rows may leave and share. Convolutions, linear attention and state
spaces keep states, each library class in its own way, and some see padding as if it were text. Where rows
cannot be chosen, ended ones stay in the batch unread; where padding counts, rows of one length go together;
where there is no cache, each token reads its row again. The same tokens come out, for more work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from align.models.forward import agree, noise
from align.models.probe_ids import probe_ids
from align.models.roles import Roles
from align.sampling.growing import growing_cache

Select = Literal["batch_select_indices", "reorder_cache", "index"]

_CACHES = ("past_key_values", "cache_params", "state")  # what decoders call the argument
_SELECTS: tuple[Select | None, ...] = ("batch_select_indices", "reorder_cache", "index", None)
# What models and caches raise that cannot do what is asked.
REFUSALS = (
    TypeError,
    ValueError,
    RuntimeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True)
class Ways:
    """How rows are decoded together on a base. As they stand: the ways of attention's caches.

    cache: the decoder's argument for what it remembers; None where there is none that works.
    select: how rows are chosen from that; None where a batch keeps the rows that it began with.
    pads: whether rows of other lengths, padded on the left, give the same numbers as alone.
    whole_mask: whether the mask is of all that a row has read, or of what it reads now.
    """

    cache: str | None = "past_key_values"
    select: Select | None = "batch_select_indices"
    pads: bool = True
    whole_mask: bool = True

    @property
    def chooses(self) -> bool:
        """Whether rows can leave a batch, and several go on from one."""
        return self.cache is None or self.select is not None

    def remarks(self, model: str) -> list[str]:
        """What is slower on this base than on others, and why, a line each."""
        found = []
        if self.cache is None:
            found.append(f"{model} has no cache that works here: each new token reads its whole row again")
        elif self.select is None:
            found.append(
                f"the cache of {model} cannot drop rows: responses that have ended stay in their batch, "
                "unread, and each response reads its prompt alone. The tokens are the same, the work is more"
            )
        if not self.pads:
            found.append(
                f"{model} reads padding in front of a prompt as text: only prompts of one length are sampled "
                "together. The tokens are the same; prompts of many lengths take longer"
            )
        return found


class Reading:
    """Rows that a decoder reads token after token."""

    def __init__(self, roles: Roles, ways: Ways, rows: list[list[int]], pad_id: int) -> None:
        self._decoder, self._ways = roles.decoder, ways
        device = roles.base.device
        width = max(map(len, rows))
        self._ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        self._mask = torch.arange(width, device=device) >= (width - lengths)[:, None]
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        # Else the decoder makes its own.
        made_here = ways.cache == "past_key_values"
        self._cache: Any = growing_cache(roles.base.config) if made_here else None

    def read(self) -> Tensor:
        """The last hidden state [B, D] of each row."""
        given: dict[str, Any] = {self._ways.cache: self._cache} if self._ways.cache else {}
        output = self._decoder(
            input_ids=self._ids,
            attention_mask=self._mask if self._ways.whole_mask else self._mask[:, -self._ids.shape[1] :],
            position_ids=self._positions,
            use_cache=bool(given),
            **given,
        )
        if self._ways.cache:
            self._cache = getattr(output, self._ways.cache, self._cache)
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def worth(self, left: int) -> bool:
        """Whether it pays to go on with so many rows alone."""
        return self._ways.chooses and left < len(self._ids)

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows [N] alone; one that stands there twice is two from now on."""
        match self._ways.select if self._ways.cache else None:
            case "batch_select_indices":
                self._cache.batch_select_indices(rows)
            case "reorder_cache":
                self._cache.reorder_cache(rows)
            case "index":
                self._cache = [part[rows] for part in self._cache]
        self._ids, self._mask, self._positions = self._ids[rows], self._mask[rows], self._positions[rows]

    def append(self, tokens: Tensor) -> None:
        """Each row's next token [B], to be read."""
        after = self._positions[:, -1:] + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        if self._ways.cache:
            self._ids, self._positions = tokens[:, None], after
        else:
            self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
            self._positions = torch.cat([self._positions, after], dim=1)


@torch.no_grad()
def find_ways(roles: Roles) -> Ways:
    """The fastest ways that give this base's own numbers, which are those of whole rows, each alone.

    The probe costs a few passes over a handful of tokens. The last ways need nothing of the base.
    """
    taken = inspect.signature(type(roles.decoder).forward).parameters
    for cache, whole in product((name for name in _CACHES if name in taken), (True, False)):
        ways = [Ways(cache, select, pads, whole) for select in _SELECTS for pads in (True, False)]
        if _right(roles, ways[0]):
            return ways[0]
        if _right(roles, ways[-1]):
            return next(one for one in ways[1:] if one is ways[-1] or _right(roles, one))
    without = Ways(cache=None, select=None)
    return without if _right(roles, without) else replace(without, pads=False)


def _right(roles: Roles, ways: Ways) -> bool:
    return right(roles, lambda rows: Reading(roles, ways, rows, 0), ways.chooses, ways.pads)


class Rows(Protocol):
    """Rows that are read token after token, as `Reading` reads them."""

    def read(self) -> Tensor:
        """The last hidden state [B, D] of each row."""

    def worth(self, left: int) -> bool:
        """Whether it pays to go on with so many rows alone."""

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows [N] alone."""

    def append(self, tokens: Tensor) -> None:
        """Each row's next token [B], to be read."""


def right(
    roles: Roles, begin: Callable[[list[list[int]]], Rows], chooses: bool = True, pads: bool = True
) -> bool:
    """Whether rows that are read together have the hidden states of whole rows, each read alone.

    Two prompts, the second padded where the ways say that it may be, and read once for two responses where
    rows can be chosen; the three responses end one after the other. Then prompts of one token, which a layer
    that keeps its state itself takes for the next one of an earlier batch.
    """
    cases = []
    for lengths in ((5, 3 if pads else 5), (1, 1)):
        first, second, *responses = (
            part.tolist() for part in probe_ids(roles.base, sum(lengths) + 6).split([*lengths, 1, 2, 3])
        )
        cases.append(([first, second, second], responses))
    try:
        truth = [_whole(roles, *case) for case in cases]
        found = [_together(roles, begin, chooses, *case) for case in cases]  # with no other pass between them
    except REFUSALS:
        return False
    return all(
        agree(one, whole, noise(padded, whole)) for one, (whole, padded) in zip(found, truth, strict=True)
    )


def _whole(roles: Roles, prompts: list[list[int]], responses: list[list[int]]) -> tuple[Tensor, Tensor]:
    """The hidden states where tokens are predicted, from whole rows: alone, and in a batch padded behind."""

    def last(**inputs: Any) -> Tensor:
        hidden: Tensor = roles.decoder(**inputs, use_cache=False).last_hidden_state
        return hidden

    def taken(hidden: list[Tensor]) -> Tensor:
        """Step by step, as rows that are read together give them."""
        steps = range(max(map(len, responses)) + 1)
        return torch.stack(
            [
                states[len(prompt) - 1 + step]
                for step in steps
                for states, prompt, response in zip(hidden, prompts, responses, strict=True)
                if step <= len(response)
            ]
        )

    device = roles.base.device
    rows = [
        torch.tensor(prompt + response, device=device)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
    padded = last(input_ids=pad_sequence(rows, batch_first=True), attention_mask=mask)
    return taken([last(input_ids=row[None])[0] for row in rows]), taken(list(padded))


def _together(
    roles: Roles,
    begin: Callable[[list[list[int]]], Rows],
    chooses: bool,
    prompts: list[list[int]],
    responses: list[list[int]],
) -> Tensor:
    """The same hidden states from rows that are read token after token; the last two prompts are the same."""
    device = roles.base.device
    reading = begin(prompts[:2] if chooses else prompts)
    hidden, alive = reading.read(), [0, 1, 2]
    if chooses:
        source = torch.tensor([0, 1, 1], device=device)
        reading.choose(source)
        hidden = hidden[source]
    found = [hidden]
    for step in range(max(map(len, responses))):
        going = [row for row in alive if step < len(responses[row])]
        if chooses and going != alive:
            reading.choose(torch.tensor([alive.index(row) for row in going], device=device))
            alive = going
        tokens = [responses[row][step] if row in going else 0 for row in alive]
        reading.append(torch.tensor(tokens, device=device))
        found.append(reading.read()[[alive.index(row) for row in going]])
    return torch.cat(found)
