"""What the parts of a recipe are made of: a strict section, numbers with limits, what all stages share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Was:
    """In a field's annotation: the key's name in earlier versions, and those of its values, {old: new}."""

    key: str
    values: Mapping[str, str] = field(default_factory=dict, hash=False)


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


def renamed(section: type[BaseModel]) -> Iterator[tuple[str, Was]]:
    """A section's keys that had another name, each with what it was."""
    for key, info in section.model_fields.items():
        for mark in info.metadata:
            if isinstance(mark, Was):
                yield key, mark


def by_new_names(section: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A section that an earlier version wrote, with keys and values as they are called now."""
    found = dict(fields)
    for key, was in renamed(section):
        if was.key in found:
            value = found.pop(was.key)
            found[key] = was.values.get(value, value) if isinstance(value, str) else value
    return found


class Training(Section):
    """What the three stages have in common."""

    max_grad_norm: PositiveFloat = Field(1.0, description="gradients are clipped to this norm")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW's decoupled weight decay")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="how the learning rate falls after the warm-up"
    )
    warmup: Share = Field(0.05, description="share of the steps over which the learning rate rises")
