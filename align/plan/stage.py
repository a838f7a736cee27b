"""The plan of a stage: its memory beside the machine's, its time, and checkpointing where it has to be."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from align.errors import UserError
from align.plan.duration import StageTime, stage_time
from align.plan.memory import Question, StageMemory, stage_memory
from align.plan.traffic import planned
from align.recipe.load import stages_of
from align.recipe.sections import Recipe
from align.stage_table import Stage


@dataclass(frozen=True)
class StagePlan:
    """What a stage needs, and what there is."""

    memory: StageMemory
    time: StageTime | None
    room: int  # bytes a process can have
    auto: bool  # whether gradient checkpointing was left to the plan
    sent: float = 0.0  # bytes that a process sends the others in a step

    @property
    def stage(self) -> Stage:
        """Which one."""
        return self.memory.stage

    @property
    def fits(self) -> bool:
        """Whether the peak, with its margin, is within the memory."""
        return self.memory.peak <= self.room


def set_in(recipe: Recipe, section: str, **values: Any) -> Recipe:
    """The recipe with other values in a section."""
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


def checkpointing_of(recipe: Recipe, stage: Stage) -> bool | None:
    """What the recipe says of gradient checkpointing; None: auto."""
    said = getattr(recipe, stage).gradient_checkpointing
    return None if said == "auto" else bool(said)


def stage_plan(asked: Question, stage: Stage) -> StagePlan:
    """The plan of one stage; gradient checkpointing on auto is on where the stage does not fit without."""
    said = checkpointing_of(asked.recipe, stage)
    found = stage_memory(asked, stage, bool(said))
    if said is None and found.peak > asked.machine.memory:
        with suppress(UserError):  # raised where the base's layers cannot run again one by one
            found = stage_memory(asked, stage, True)
    traffic = planned(asked, found)
    sent = traffic.sent(asked.machine.processes) if traffic else 0.0
    return StagePlan(found, stage_time(asked, found), asked.machine.memory, said is None, sent)


def plans(asked: Question) -> dict[Stage, StagePlan]:
    """Of each stage that the recipe runs."""
    return {stage: stage_plan(asked, stage) for stage in stages_of(asked.recipe)}


def with_machine(asked: Question, **changes: Any) -> Question:
    """The same question for another machine."""
    return replace(asked, machine=replace(asked.machine, **changes))
