"""The `compare` section of a recipe: which methods `align compare` trains, how often, and how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from align.recipe.parts import NonNegativeInt, OneOrMore, PositiveInt, Section

Method = Literal["ppo", "rloo", "group", "dpo", "sft-best", "best-of-n"]


class Compare(Section):
    """What `align compare` trains from one set of rankings, and how it makes it fair."""

    methods: Annotated[list[Method] | None, OneOrMore()] = Field(
        None, min_length=1, description="which methods; null: all that the recipe has what they need for"
    )
    seeds: list[NonNegativeInt] = Field(
        [0, 1, 2], min_length=1, description="each method is trained once with each of them as run.seed"
    )
    budget: Literal["equal", "own"] = Field(
        "equal",
        description="equal: all take as many operations as the recipe's ppo, reward model included; own: as "
        "long as their sections say",
    )
    most_epochs: PositiveInt | None = Field(
        None, description="no method passes over the rankings more often, whatever the budget is; null: any"
    )
    responses_per_prompt: Annotated[int, Field(ge=2)] = Field(
        4, description="what rloo and group compare, where ppo.responses_per_prompt is 1"
    )

    @model_validator(mode="after")
    def _once(self) -> Compare:
        for key in ("methods", "seeds"):
            named = getattr(self, key) or []
            if double := [one for i, one in enumerate(named) if one in named[:i]]:
                raise ValueError(f"{key} has {double[0]} twice: name each once")
        return self
