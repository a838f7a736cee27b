"""What a stage is: the one place that says it to recipes, the command line, runs and reports. No libraries.

A new stage has a line here, a section of the recipe, a file in stages/, a command and its part of the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["sft", "rm", "ppo"]


@dataclass(frozen=True)
class About:
    """What the others know of a stage."""

    module: str  # whose run(recipe) it is
    title: str  # in reports
    records: str  # what it trains on, data.RECORDS
    parents: tuple[Stage, ...]  # stages that it starts from; their fields in its section name other runs
    has_head: bool  # whether final/ has the scalar head of a reward model
    smaller: tuple[str, str]  # to lower where memory runs out: what leaves the result as it is, what does not


# In the order in which they run.
STAGES: dict[Stage, About] = {
    "sft": About(
        module="align.stages.sft",
        title="Supervised fine-tuning",
        records="demonstrations",
        parents=(),
        has_head=False,
        smaller=("sft.microbatch_size", ", set sft.gradient_checkpointing, or lower sft.max_length"),
    ),
    "rm": About(
        module="align.stages.rm",
        title="Reward model",
        records="rankings",
        parents=("sft",),
        has_head=True,
        smaller=("rm.microbatch_tokens", ", or rm.max_length"),
    ),
    "ppo": About(
        module="align.ppo.train",
        title="PPO",
        records="prompts",
        parents=("sft", "rm"),
        has_head=False,
        smaller=("ppo.microbatch_tokens", ", or ppo.rollout_batch_size or ppo.max_response_tokens"),
    ),
}
OF_RECORDS = {about.records: stage for stage, about in STAGES.items()}


def place_of(stage: Stage) -> int:
    """Where it stands in the order in which stages run."""
    return list(STAGES).index(stage)
