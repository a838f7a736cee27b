"""The `labeling` section of a recipe: where people write and rank."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from align.recipe import Priority
from align.recipe.parts import (
    RUN_NAME,
    NonNegativeInt,
    OneOrMore,
    PositiveFloat,
    PositiveInt,
    Section,
    check_function_name,
    label_of,
)

MAX_RESPONSES = 9  # one digit a rank
_RULE = ("min_characters", "max_characters", "forbidden", "pattern")


class Check(Section):
    """What people may have an answer that they write checked by; one of run, function and a rule."""

    run: str | None = Field(
        None, min_length=1, description="run folder of a reward model; `this`: this run's own"
    )
    function: str | None = Field(
        None,
        min_length=1,
        description="my_package.my_module:function, from prompts and responses to one number a response, "
        "or to true or a text that says what is wrong",
    )
    min_characters: PositiveInt | None = Field(None, description="a rule: the answer has so many at least")
    max_characters: PositiveInt | None = Field(None, description="a rule: the answer has so many at most")
    forbidden: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None, min_length=1, description="a rule: words that are not in it, in capitals or not"
    )
    pattern: str | None = Field(
        None, min_length=1, description="a rule: a regular expression that is found in it"
    )
    name: str | None = Field(
        None, pattern=RUN_NAME, description="what pages and exports call it; null: from what it is"
    )
    timeout: PositiveFloat = Field(30.0, le=86400, description="seconds that one check may take")

    @model_validator(mode="after")
    def _one_kind(self) -> Check:
        rule = any(getattr(self, key) is not None for key in _RULE)
        kinds = [key for key in ("run", "function") if getattr(self, key)] + (["a rule"] if rule else [])
        if len(kinds) != 1:
            found = f"{' and '.join(kinds)} are all there; keep one" if kinds else "none is there"
            raise ValueError(f"a check is one of run, function and a rule ({', '.join(_RULE)}): {found}")
        check_function_name(self.function)
        if (self.min_characters or 0) > (self.max_characters or 10**9):
            raise ValueError("min_characters is over max_characters: no answer can have both")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"pattern {self.pattern}: is no regular expression: {error}") from None
        return self

    @property
    def label(self) -> str:
        """Its name, or one made from what it is."""
        return self.name or label_of(self.run, self.function) or "rule"


class Labeling(Section):
    """The app in which people write demonstrations and rank responses (`align label`)."""

    database: str | None = Field(
        None, min_length=1, description="a file, or postgresql://…; null: labeling.db in the run folder"
    )
    guideline: str | None = Field(
        None,
        min_length=1,
        description="the Markdown file that people judge by; null: the one that comes with align",
    )
    overlap: Annotated[int, Field(ge=1, le=50)] = Field(
        1, description="how many people do each task, where the task does not say"
    )
    lease: PositiveFloat = Field(
        10.0, description="minutes without a sign of life after which a task goes to somebody else"
    )
    quality: Literal["required", "optional", "off"] = Field(
        "optional", description="whether each response gets a quality from 1 to 7 before the ranking"
    )
    priority: Priority = Field(
        "none",
        description="which tasks that `align generate` and `align iterate` sample come first: any; margin or "
        "gap: where the reward model's two best scores are close, or far apart; disagreement: where several "
        "reward models disagree (generate alone)",
    )
    gold_every: NonNegativeInt = Field(
        10, description="every so many tasks one whose answer is known, where there are such; 0: never"
    )
    calibration: NonNegativeInt = Field(
        0, description="gold tasks that a labeler does first, with feedback after each; 0: none"
    )
    pass_mark: Annotated[float, Field(ge=0, le=1)] = Field(
        0.7, description="share of the pairs of these that a labeler orders as known, to be given real tasks"
    )
    fastest: PositiveFloat = Field(
        50.0, description="characters a second; answers that came faster than that can be read are listed"
    )
    suggestions: Literal["off", "after", "prefilled", "machine"] = Field(
        "off",
        description="what `align suggest` sent: never shown; shown when the answer is given; the order that "
        "cards start in; or taken as labels, of which people audit a share",
    )
    control: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2,
        description="share of tasks that keep their suggestion hidden, so that its effect can be measured",
    )
    audit: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="with `suggestions: machine`, share of its tasks that people judge too; 0: none"
    )
    checks: Annotated[list[Check] | None, OneOrMore()] = Field(
        None, min_length=1, description="what people may have their own answer checked by; null: nothing"
    )
    language: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{2,20}$")] = Field(
        "auto",
        description="of the interface, for people who chose none: `de`, `en`, `fr`; `auto`: what their "
        "browser asks for",
    )
    session_days: PositiveInt = Field(14, description="days after which a person signs in again")
    upload_limit: PositiveInt = Field(64, description="MiB that one import or request may have")

    @model_validator(mode="after")
    def _own_names(self) -> Labeling:
        labels = [check.label for check in self.checks or ()]
        if double := [name for name in labels if labels.count(name) > 1]:
            raise ValueError(f"two of checks are called {double[0]}: give them a name each (`name: …`)")
        return self
