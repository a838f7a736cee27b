"""The `labeling` section of a recipe: where people write and rank."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from align.recipe.parts import NonNegativeInt, PositiveFloat, PositiveInt, Section

MAX_RESPONSES = 9  # one digit a rank


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
    session_days: PositiveInt = Field(14, description="days after which a person signs in again")
    upload_limit: PositiveInt = Field(64, description="MiB that one import or request may have")
