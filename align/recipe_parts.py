"""What the parts of a recipe are made of: a strict section, numbers with limits, what all stages share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, values are not coerced, nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    short_form: ClassVar[str | None] = None  # the key that is meant when a text or a list stands for all

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return expand(cls, value)


def expand(section: type[Section], value: Any) -> Any:
    """The mapping that a short form means: `base: name` is `base: {name: name}`."""
    if section.short_form and isinstance(value, (str, list)):
        return {section.short_form: value}
    return value


def as_list(value: Any) -> Any:
    """`train: a.jsonl` means `train: [a.jsonl]`, and one mapping is a list of one."""
    return [value] if isinstance(value, (str, dict)) else value


class Training(Section):
    """What the three stages have in common."""

    max_grad_norm: PositiveFloat = Field(1.0, description="gradients are clipped to this norm")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW's decoupled weight decay")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="how the learning rate falls after the warm-up"
    )
    warmup: Share = Field(0.05, description="share of the steps over which the learning rate rises")
