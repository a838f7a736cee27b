"""What a stage is: the one place that says it to recipes, the command line, runs and reports. No libraries.

A new stage has an entry here, a section of the recipe, a file in stages/, and its part of the report. A stage
that not every run has is None in a recipe that does not write it, and `align run` passes it over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stage = Literal["sft", "rm", "ppo", "dpo"]
Accepted = Literal["reward"]  # what may change while ppo is under way, where the person says so


@dataclass(frozen=True)
class About:
    """What the others know of a stage."""

    module: str  # whose run(recipe) it is
    title: str  # in reports
    help: str  # of its command
    records: tuple[str, ...]  # the kinds that it cannot do without, as a recipe's data has them
    parents: tuple[Stage, ...]  # stages that it starts from; their fields in its section name other runs
    has_head: bool  # whether final/ has the scalar head of a reward model
    smaller: tuple[str, str]  # to lower where memory runs out: what leaves the result as it is, what does not


# In the order in which they run.
STAGES: dict[Stage, About] = {
    "sft": About(
        module="align.stages.sft",
        title="Supervised fine-tuning",
        help="1. Supervised fine-tuning: learn to answer as the demonstrations do.",
        records=("demonstrations",),
        parents=(),
        has_head=False,
        smaller=("sft.microbatch_size", ", set sft.gradient_checkpointing, or lower sft.max_length"),
    ),
    "rm": About(
        module="align.stages.rm",
        title="Reward model",
        help="2. Reward model: learn from rankings which response people prefer.",
        records=("rankings",),
        parents=("sft",),
        has_head=True,
        smaller=("rm.microbatch_tokens", ", set rm.gradient_checkpointing, or lower rm.max_length"),
    ),
    "ppo": About(
        module="align.ppo.train",
        title="PPO",
        help="3. PPO: raise the reward model's score, staying close to the SFT model.",
        records=("prompts",),
        parents=("sft", "rm"),
        has_head=False,
        smaller=(
            "ppo.microbatch_tokens",
            ", set ppo.sampling_tokens or ppo.gradient_checkpointing, or lower ppo.rollout_batch_size or "
            "ppo.max_response_tokens",
        ),
    ),
    "dpo": About(
        module="align.stages.dpo",
        title="DPO",
        help="DPO: learn from rankings alone, in place of rm and ppo; no part of `align run`.",
        records=("rankings",),
        parents=("sft",),
        has_head=False,
        smaller=("dpo.microbatch_size", ", set dpo.gradient_checkpointing, or lower dpo.max_length"),
    ),
}
BESIDE: tuple[Stage, ...] = ("dpo",)  # in place of others, so that `align run` does not run them


def place_of(stage: Stage) -> int:
    """Where it stands in the order in which stages run."""
    return list(STAGES).index(stage)
