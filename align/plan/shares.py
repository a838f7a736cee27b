"""What each process has of a batch: as many rows as the others, in microbatches that come out even."""

from __future__ import annotations

from collections.abc import Sequence

from align.errors import UserError
from align.processes.distributed import check_shared
from align.recipe.sections import DPO, SFT, Recipe
from align.stage_table import Stage

BATCHES: dict[Stage, str] = {
    "sft": "batch_size",
    "rm": "batch_size",
    "ppo": "rollout_batch_size",
    "dpo": "batch_size",
}


def batch_of(recipe: Recipe, stage: Stage) -> int:
    """The rows of a step of all processes; of ppo, of a rollout."""
    rows: int = getattr(getattr(recipe, stage), BATCHES[stage])
    return rows


def check_shares(recipe: Recipe, stages: Sequence[Stage], processes: int) -> None:
    """Raise UserError where so many processes cannot share a stage's batch, as the stage itself would."""
    for stage in BATCHES:
        if stage in stages:
            check_shared(batch_of(recipe, stage), f"{stage}.{BATCHES[stage]}", processes)
    if "sft" in stages:
        microbatches(recipe.sft, processes)
    if "dpo" in stages:
        microbatches(recipe.dpo, processes, "dpo", "pairs")


def microbatches(
    cfg: SFT | DPO, processes: int, stage: Stage = "sft", what: str = "demonstrations"
) -> tuple[int, int]:
    """Demonstrations in one forward pass of one process, and how many passes make its share of a step."""
    check_shared(cfg.batch_size, f"{stage}.batch_size", processes)
    mine = cfg.batch_size // processes
    size = min(cfg.microbatch_size or mine, mine)
    if mine % size:
        raise UserError(
            f"{stage}.microbatch_size is {size}, which does not divide the {mine} {what} that each "
            f"process has of {stage}.batch_size {cfg.batch_size}: change one of them"
        )
    return size, mine // size
