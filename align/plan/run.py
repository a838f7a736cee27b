"""`align plan`: what a recipe needs on a machine, printed; nothing is loaded, and nothing trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from align.errors import UserError
from align.plan.advice import advise
from align.plan.base import plan_base
from align.plan.gpus import find_gpu
from align.plan.lengths import limits
from align.plan.machine import Machine, of_gpu, this_machine
from align.plan.memory import Question
from align.plan.show import document, text
from align.plan.stage import plans
from align.recipe.load import stages_of
from align.recipe.sections import Recipe

Sharded = Literal["layers", "states"] | None


def main(recipe: Recipe, gpu: str | None, gpus: int | None, config: Path | None, as_json: bool) -> None:
    """Prints the plan. Raises UserError for a card that is not known, or a base that cannot be planned."""
    machine = _machine(gpu, gpus, config)
    base = plan_base(recipe.base)
    if not stages_of(recipe):
        raise UserError("the recipe has no stage whose memory could be planned")
    found = plans(recipe, base, machine)
    asked = Question(recipe, base, limits(recipe), machine)
    advices = {stage: advise(asked, plan) for stage, plan in found.items() if not plan.fits}
    if as_json:
        print(json.dumps(document(base, machine, found, advices), indent=2))
    else:
        print(text(base, machine, found, advices))


def _machine(gpu: str | None, gpus: int | None, config: Path | None) -> Machine:
    count, sharded = gpus or 1, None
    if config is not None:
        processes, sharded = accelerate_config(config)
        count = gpus or processes
    return this_machine(count, sharded) if gpu is None else of_gpu(find_gpu(gpu), count, sharded)


def accelerate_config(path: Path) -> tuple[int, Sharded]:
    """How many processes an accelerate configuration starts, and what it shares out among them."""
    from accelerate.commands.config import load_config_from_file

    if not path.is_file():
        raise UserError(f"--accelerate-config {path}: there is no such file")
    try:
        config = load_config_from_file(str(path))
        kind = config.distributed_type.value
    except Exception as error:  # accelerate checks little, so it may be of any kind
        said = " ".join(str(error).split())
        raise UserError(f"--accelerate-config {path} is not an accelerate configuration: {said}") from error
    stage = str((config.deepspeed_config or {}).get("zero_stage", ""))
    sharded: Sharded = None
    if kind == "FSDP" or (kind == "DEEPSPEED" and stage == "3"):
        sharded = "layers"
    elif kind == "DEEPSPEED":
        sharded = "states"
    return int(config.num_processes or 1), sharded
