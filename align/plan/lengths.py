"""How long the rows of a stage are: as its data have them, or at the most that the recipe allows."""

from __future__ import annotations

from dataclasses import dataclass

from align.recipe.sections import Recipe

_RESPONSES, _MOST = 4, 16  # of a ranking, where the data are not known: in the mean, and of a large one


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

    @property
    def ranking(self) -> int:
        """Tokens of a large ranking, its prompt once."""
        return self.prompt + self.responses * self.response


@dataclass(frozen=True)
class PpoRows:
    """Prompts of ppo and the responses to them."""

    prompt: int
    response: int


@dataclass(frozen=True)
class Lengths:
    """Of all stages. `known`: of the data; else the recipe's limits."""

    sft: SftRows
    rm: RmRows
    ppo: PpoRows
    known: bool = False


def limits(recipe: Recipe) -> Lengths:
    """The longest rows that the recipe allows; a ranking's prompt is as long as each of its responses."""
    sft, rm, ppo = recipe.sft.max_length, recipe.rm.max_length, recipe.ppo
    half = max(1, rm // 2)
    responses = RmRows(rm - half or 1, half, _MOST, float(rm - half + _RESPONSES * half))
    return Lengths(
        SftRows(sft, float(sft)), responses, PpoRows(ppo.max_prompt_tokens, ppo.max_response_tokens)
    )
