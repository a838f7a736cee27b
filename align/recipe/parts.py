"""What the parts of a recipe are made of: a strict section, numbers with limits, what all stages share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Keys = tuple[str | int, ...]
Move = tuple[Keys, Keys]  # where a value was written, where it stands in full
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Was:
    """In a field's annotation: the key's name in earlier versions, and those of its values, {old: new}."""

    key: str
    values: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class MayChange:
    """In a field's annotation: a run goes on with another value, since a stage's result stays the same.

    unless: a key of the same section and its value with which the result does depend on the field.
    """

    unless: tuple[str, str] | None = None


@dataclass(frozen=True)
class Short:
    """In a field's annotation: a text or a list in the section's place is the value of this field."""


@dataclass(frozen=True)
class OneOrMore:
    """In the annotation of a list: a text or a mapping is a list of one."""


Mark = TypeVar("Mark", Was, MayChange, Short, OneOrMore)


def marked(section: type[BaseModel], kind: type[Mark]) -> dict[str, Mark]:
    """The keys of a section whose annotations have a mark of this kind, and the marks."""
    fields = section.model_fields.items()
    return {key: mark for key, info in fields for mark in info.metadata if isinstance(mark, kind)}


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, values are not coerced, nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def in_full(cls, value: Any) -> tuple[Any, list[Move]]:
        """The mapping that a short form of this section means, and which values stand deeper in it.

        `base: NAME` is `base: {name: NAME}`. Sections within this one stay as they are written.
        """
        moves: list[Move] = []
        for key in marked(cls, Short):
            if isinstance(value, (str, list)):
                value = {key: value}
                moves.append(((), (key,)))
        for key in marked(cls, OneOrMore) if isinstance(value, dict) else ():
            if isinstance(value.get(key), (str, dict)):
                value = {**value, key: [value[key]]}
                moves.append(((key,), (key, 0)))
        return value, moves

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, value: Any) -> Any:
        return cls.in_full(value)[0]


def check_function_name(function: str | None) -> None:
    """Raises ValueError for a name that is no module's, or file's, function."""
    if function and not re.fullmatch(r"[^:\s][^:]*:[^\W\d][\w.]*", function):
        raise ValueError(f"function {function}: write my_package.my_module:function, or FILE.py:function")


def label_of(run: str | None, function: str | None) -> str:
    """What a run's reward model or a function is called that has no name; "" where there is neither."""
    if run:
        return "model" if run == "this" else re.split(r"[/\\]", run.rstrip("/\\"))[-1]
    return function.rpartition(":")[2] if function else ""


def may_change(section: Section) -> set[str]:
    """The keys of a section with whose other values a run may go on."""
    return {
        key
        for key, mark in marked(type(section), MayChange).items()
        if mark.unless is None or getattr(section, mark.unless[0]) != mark.unless[1]
    }


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field holds: `Entry` of `Share | list[Entry]`; None where it holds plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)


def by_new_names(section: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A section that an earlier version wrote, with keys and values as they are called now."""
    found = dict(fields)
    for key, was in marked(section, Was).items():
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
    warmup: Fraction = Field(0.05, description="share of the steps over which the learning rate rises")
