"""How long the rows of a stage are: as its data have them, or at the most that the recipe allows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from align.data.tokenize import Encoded, Encodings
from align.plan.responses import Responses
from align.recipe.sections import Recipe


@dataclass(frozen=True)
class SftRows:
    """Demonstrations, prompt and response together."""

    longest: int
    mean: float
    count: int | None = None  # None: not known


@dataclass(frozen=True)
class RmRows:
    """Rankings: the tokens of a prompt and of a response, and how many responses there are."""

    prompt: int
    response: int
    responses: int
    mean: float  # tokens of a ranking, its prompt once
    count: int | None = None
    typical: float = 4.0  # responses of a ranking in the mean

    @property
    def ranking(self) -> int:
        """Tokens of a large ranking, its prompt once."""
        return self.prompt + self.responses * self.response


@dataclass(frozen=True)
class PpoRows:
    """Prompts of ppo and the responses to them."""

    prompt: int
    response: int
    count: int | None = None  # prompts


@dataclass(frozen=True)
class Lengths:
    """Of all stages. `known`: of the data; else the recipe's limits."""

    sft: SftRows
    rm: RmRows
    ppo: PpoRows
    known: bool = False


def limits(recipe: Recipe, responses: Responses | None = None, positions: int | None = None) -> Lengths:
    """The longest rows that the recipe allows; a ranking's prompt is as long as each of its responses.

    responses: how many a ranking has; None: what is assumed of that. positions: how many tokens the base
    reads, None where nothing says it; longer rows are bad records, whatever the recipe allows.
    """
    counts, most = responses or Responses(), positions or 2**62
    sft, rm, ppo = min(recipe.sft.max_length, most), min(recipe.rm.max_length, most), recipe.ppo
    prompt = max(1, min(ppo.max_prompt_tokens, most - ppo.max_response_tokens))
    half = max(1, rm // 2)
    mean = float(rm - half + counts.mean * half)
    rankings = RmRows(rm - half or 1, half, counts.most, mean, typical=counts.mean)
    return Lengths(SftRows(sft, float(sft)), rankings, PpoRows(prompt, ppo.max_response_tokens))


def lengths_of_demonstrations(recipe: Recipe, lengths: NDArray[np.int64]) -> Lengths:
    """The same, but for sft as its demonstrations are: tokens of each [N]."""
    if not len(lengths):
        return limits(recipe)
    rows = SftRows(int(lengths.max()), float(lengths.mean()), len(lengths))
    return replace(limits(recipe), sft=rows, known=True)


def lengths_of_rankings(recipe: Recipe, rankings: Encodings[Encoded]) -> Lengths:
    """The same, but for rm as its rankings are: by the largest one, and the mean."""
    if not len(rankings):
        return limits(recipe)
    largest = rankings[int(rankings.totals.argmax())]
    count, total = len(largest.responses), int(rankings.totals.max())
    response = -(-(total - len(largest.prompt)) // count)
    mean = float(rankings.totals.mean())
    rows = RmRows(len(largest.prompt), response, count, mean, len(rankings), count)
    return replace(limits(recipe), rm=rows, known=True)


def lengths_of_prompts(recipe: Recipe, lengths: NDArray[np.int64]) -> Lengths:
    """The same, but for ppo as its prompts are: tokens of each [N]; responses may be as long as they can."""
    if not len(lengths):
        return limits(recipe)
    rows = PpoRows(int(lengths.max()), recipe.ppo.max_response_tokens, len(lengths))
    return replace(limits(recipe), ppo=rows, known=True)
