"""What sampling is asked for, what comes back, and the protocol between: an engine a file samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from align.seeds import generator


@dataclass(frozen=True)
class SamplingParams:
    """From which distribution tokens are drawn, and where a response ends."""

    temperature: float
    eos_id: int
    pad_id: int
    max_tokens: int
    batch_tokens: int  # held in one decoding batch at most, as far as an engine can tell
    min_tokens: int = 0  # EOS has no probability before a response has so many
    top_k: int | None = None  # draw from the k likeliest tokens only, ties with the k-th included
    top_p: float | None = None  # then from the fewest of them that make up this probability


@dataclass(frozen=True)
class Draws:
    """Which random numbers responses are drawn with: a row's are a function of (seed, name, step, row)."""

    seed: int
    name: str  # of what is sampled for, so that no two uses share numbers
    step: int | str  # an iteration, a turn, a policy
    rows: Sequence[int | tuple[int | str, ...]]  # a number for each prompt, or several parts that name it

    def generators(self) -> list[torch.Generator]:
        """One for each row."""
        parts = [row if isinstance(row, tuple) else (row,) for row in self.rows]
        return [generator(self.seed, self.name, self.step, *row) for row in parts]


@dataclass(frozen=True)
class Sampled:
    """One response as an engine gave it: token ids (EOS included, if it came) and their log probabilities."""

    prompt: list[int]
    response: list[int]
    logprobs: list[float]


class Engine(Protocol):
    """Samples from roles on one base. All roles but the policy are frozen."""

    def update(self) -> None:
        """Take over the policy as it is now; `sample` uses it until the next call."""

    def sample(
        self,
        prompts: list[list[int]],
        draws: Draws,
        params: SamplingParams,
        role: str = "policy",
        heard: Callable[[int], object] | None = None,
    ) -> list[Sampled]:
        """A role's response to each prompt; none for no prompts. All processes call it together.

        What is drawn for a row is a function of its draws, the role and the prompt, as far as the engine
        allows it. `heard` is told each token of one prompt's response: as it comes, or by an engine that gets
        responses whole, when it is there.
        """

    def remarks(self) -> list[str]:
        """What a person should know of how it samples on this base, a line each."""

    def close(self) -> None:
        """Give back what the engine holds."""
