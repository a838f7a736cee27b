"""Single steps of decoding, for those who count what they need: reading rows and drawing a token."""

from __future__ import annotations

from typing import Any

import torch

from align.models.roles import Roles
from align.sampling.cache import Reading, Ways
from align.sampling.params import SamplingParams
from align.sampling.sampler import draw


class Steps:
    """So many rows of one length that the policy goes on with; the base may be without weights."""

    def __init__(self, roles: Roles, rows: int, length: int) -> None:
        roles.activate("policy")
        roles.prove_logits(proof=False)
        self._roles, self._rows = roles, rows
        self._params = SamplingParams(temperature=1.0, eos_id=0, pad_id=0, max_tokens=1, batch_tokens=0)
        self._reading = Reading(roles, Ways(), [[0] * length] * rows, 0)

    @torch.no_grad()
    def fill(self) -> None:
        """Read the rows, and put one more token behind each."""
        self._reading.read()
        device = self._roles.base.device
        self._reading.append(torch.zeros(self._rows, dtype=torch.int64, device=device))

    @torch.no_grad()
    def step(self) -> None:
        """Read what has not been read, and draw each row's next token."""
        head: Any = self._roles.base.get_output_embeddings()
        hidden = self._reading.read()
        logits = self._roles.last_step.apply_(head(hidden).float())
        draw(logits, torch.empty(self._rows, dtype=torch.float64, device=hidden.device), 0, self._params)
