"""A policy that answers: the base, or the base with the adapter that sft or ppo left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from align.models.roles import Roles
from align.recipe import Recipe
from align.rollouts.engine import Terms, terms
from align.rollouts.hf import sample
from align.rollouts.narrow import narrowing
from align.rollouts.params import Sampled
from align.runtime.lineage import parent
from align.seeds import generator
from align.stages.setup import Setup, set_up

PolicyStage = Literal["base", "sft", "ppo"]
ROLE = "policy"
_HASH = 16  # characters of an adapter's hash that name a policy


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn; None: as the recipe's `ppo` section says, or all of them."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Policy:
    """A policy in memory. `origin` names it."""

    origin: str
    setup: Setup
    roles: Roles
    terms: Terms
    drawing: Drawing
    seed: int

    def sample(
        self,
        prompts: list[list[int]],
        names: Sequence[Sequence[str | int]],
        heard: Callable[[int], object] | None = None,
    ) -> list[Sampled]:
        """A response to each prompt's ids; what is drawn depends on the seed and the row's names alone."""
        drawn = [
            torch.rand(self.terms.max_tokens, generator=generator(self.seed, *row), dtype=torch.float64)
            for row in names
        ]
        narrow = narrowing(self.drawing.top_k, self.drawing.top_p)
        return sample(self.roles, ROLE, prompts, torch.stack(drawn), self.terms, narrow, heard)

    def text(self, response: list[int]) -> str:
        return str(self.setup.base.tokenizer.decode(response, skip_special_tokens=True))


def origin_of(run: str, stage: str, digest: str) -> str:
    """What names a policy: its run, its stage, and the beginning of its weights' hash."""
    return f"{run}/{stage} {digest[:_HASH]}"


def open_policy(recipe: Recipe, stage: PolicyStage, drawing: Drawing, run: Path | None = None) -> Policy:
    """The policy of the recipe's run, or of the run folder `run`, verified as the next stage would.

    Raises MissingStage where the stage has not finished, UserError where it is of another base or template.
    """
    setup = set_up(recipe)
    place = str(run) if run is not None else recipe.ppo.sft if stage == "sft" else None
    found = None if stage == "base" else parent(recipe, stage, place, setup.lineage)
    roles = Roles(setup.base.load_model(setup.accel.device))
    if found is None:
        roles.share(ROLE, stage, trains=False)  # no adapter is called so: the base alone answers
    else:
        roles.add(ROLE, found.final, trains=False)
    name = Path(place).name if place else recipe.run.name
    digest = found.adapter_hash if found else setup.base.fingerprint
    drawn = terms(recipe.ppo, setup.base)
    if drawing.temperature is not None:
        drawn = replace(drawn, temperature=drawing.temperature)
    if drawing.max_tokens is not None:
        drawn = replace(drawn, max_tokens=drawing.max_tokens, min_tokens=0)
    seed = recipe.run.seed if drawing.seed is None else drawing.seed
    return Policy(origin_of(name, stage, digest), setup, roles, drawn, drawing, seed)
