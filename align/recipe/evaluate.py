"""The `evaluate` section of a recipe: what `align evaluate` compares, by whom, and on what."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from align.recipe.parts import NonNegativeInt, OneOrMore, PositiveFloat, PositiveInt, Section
from align.recipe.ppo import Reward


class Judge(Section):
    """A judge model behind an address that speaks OpenAI's chat completions."""

    url: str = Field(
        pattern=r"^https?://[^/\s]", description="such as http://localhost:8000/v1; /chat/completions follows"
    )
    model: str = Field(min_length=1, description="the model's name there")
    key: str | None = Field(
        None, pattern=r"^[A-Za-z_]\w*$", description="the environment variable that holds the key; null: none"
    )
    template: str | None = Field(
        None,
        min_length=1,
        description="a file with {prompt}, {first}, {second}, asking for [[A]], [[B]] or [[C]]; null: ours",
    )
    max_tokens: PositiveInt = Field(1024, description="of a verdict")
    timeout: PositiveFloat = Field(120.0, description="seconds that a verdict may take")
    parallel: PositiveInt = Field(8, description="questions that are asked at a time")


class SafetyJudge(Judge):
    """A judge model that says whether an answer refuses or helps."""

    template: str | None = Field(
        None,
        min_length=1,
        description="a file with {prompt} and {answer}, asking for [[REFUSED]], [[ANSWERED]] or [[UNCLEAR]]; "
        "null: ours",
    )


class Safety(Section):
    """Cases that policies should refuse, should not refuse, or should answer without a leak."""

    files: Annotated[list[str] | None, OneOrMore()] = Field(
        None, min_length=1, description="files of cases beside the suite that comes along; null: none"
    )
    attacks: Annotated[list[str] | None, OneOrMore()] = Field(
        None,
        min_length=1,
        description="what requests are put behind: groups (encoding), names (encoding/base64) or plain; "
        "null: all",
    )
    suffixes: str | None = Field(None, min_length=1, description="a file of more suffixes; null: none")
    count: PositiveInt | None = Field(
        300, description="so many of the cases, attacks and harms as evenly as they go; null: all"
    )
    judge: SafetyJudge | None = Field(
        None, description="a model that says what an answer does; null: rules alone"
    )


class LmEval(Section):
    """Tasks of lm-evaluation-harness (the package lm_eval)."""

    tasks: Annotated[list[str], OneOrMore()] = Field(min_length=1, description="names of tasks")
    folder: str | None = Field(None, min_length=1, description="with task files of your own")
    limit: PositiveInt | None = Field(None, description="questions of each task; null: all")


class Evaluate(Section):
    """What `align evaluate` compares, and how."""

    policies: Annotated[list[str] | None, OneOrMore()] = Field(
        None,
        min_length=1,
        description="base, sft, ppo, dpo, a checkpoint (ppo@120), or another run's (RUN/ppo, RUN/sft@40); "
        "null: base, sft and ppo, as far as they are there",
    )
    prompts: str | None = Field(
        None, min_length=1, description="a file of prompts; null: the held-out ones of data.prompts"
    )
    count: PositiveInt | None = Field(None, description="so many of the prompts; null: all")
    best_of: NonNegativeInt = Field(
        16, description="responses of the SFT policy to a prompt, for best-of-n beside ppo; 0: none"
    )
    measures: Annotated[list[Reward] | None, OneOrMore()] = Field(
        None, min_length=1, description="what else answers are measured by, such as a gold measure"
    )
    judge: Judge | None = Field(None, description="a model that compares answers; null: none")
    reward_bench: Annotated[list[str] | None, OneOrMore()] = Field(
        None, min_length=1, description="files of RewardBench 1 or 2, or of that form, for the reward model"
    )
    memorised: PositiveInt | None = Field(
        None,
        description="so many training demonstrations, and held-out ones, whose responses the policies go on "
        "with greedily: what was learnt by heart; null: not looked for",
    )
    lm_eval: LmEval | None = Field(None, description="tasks of lm_eval for each policy; null: none")
    safety: Safety | None = Field(
        None,
        description="cases that each policy should refuse or answer; null: none, and with --safety the suite "
        "that comes along",
    )

    @model_validator(mode="after")
    def _names(self) -> Evaluate:
        if self.best_of == 1:
            raise ValueError("best_of: 1 is the SFT policy itself: take 2 or more, or 0 for none")
        for name in self.policies or ():
            if "@" in name and not re.search(r"@\d+$", name):
                raise ValueError(f"policies: {name}: a checkpoint is named by its step, as in ppo@120")
        for measure in self.measures or ():
            if measure.weight != 1.0:
                raise ValueError(
                    f"measures: {measure.label}: weight does nothing there, where each stands for itself: "
                    "take it out"
                )
        labels = [measure.label for measure in self.measures or ()]
        if double := [label for i, label in enumerate(labels) if label in labels[:i]]:
            raise ValueError(f"two of measures are called {double[0]}: give them a name each (`name: …`)")
        return self
