"""A number with what is known of it. No numpy here: the labeling app serves without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, from `count` things of `prompts` different prompts; None: not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    count: int = 0
    prompts: int = 0
