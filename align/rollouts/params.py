"""What sampling gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampled:
    """One response as an engine gave it: token ids (EOS included, if it came) and their log probabilities."""

    prompt: list[int]
    response: list[int]
    logprobs: list[float]
