"""What the SFT policy's own responses to the training prompts are worth: found once, then remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class ReferenceScores:
    """Scores [M] of M responses to each training prompt that has come so far; in every checkpoint."""

    found: dict[int, Tensor] = field(default_factory=dict)  # by the prompt's row; the same on every process

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Which prompts have no scores yet, or not all of them finite: a function may have been mended."""
        known = self.found
        return sorted({row for row in rows if row not in known or not bool(known[row].isfinite().all())})

    def of(self, rows: Sequence[int]) -> Tensor:
        """The scores [B, M] of these prompts."""
        return torch.stack([self.found[row] for row in rows])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: rows [N] and scores [N, M]."""
        if not self.found:
            return {}
        return {"rows": torch.tensor(list(self.found)), "scores": torch.stack(list(self.found.values()))}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take over what a checkpoint kept."""
        if saved:
            self.found = dict(zip(saved["rows"].tolist(), saved["scores"], strict=True))
