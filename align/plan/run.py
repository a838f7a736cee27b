"""`align plan`: what a recipe needs on a machine, printed; nothing is loaded, and nothing trains."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from align.errors import RecipeError, UserError
from align.models.suitable import check_logits, check_reading
from align.plan.advice import advise
from align.plan.base import PlannedBase, plan_base
from align.plan.gpus import find_gpu
from align.plan.lengths import limits
from align.plan.machine import Machine, Sharded, configured, of_gpu, this_machine
from align.plan.memory import Question
from align.plan.notes import notes
from align.plan.responses import Responses, responses_of
from align.plan.shares import check_shares
from align.plan.show import document, text
from align.plan.stage import plans
from align.recipe.load import stages_of
from align.recipe.sections import Recipe
from align.run.hub import first_line


def main(recipe: Recipe, gpu: str | None, gpus: int | None, config: Path | None, as_json: bool) -> int:
    """Prints the plan; gives the exit code, 2 where a stage does not fit.

    Raises UserError for a card that is not known, or a base that cannot be planned.
    """
    machine = _machine(gpu, gpus, config)
    base = plan_base(recipe.base)
    stages = stages_of(recipe)
    if not stages:
        raise UserError("the recipe has no stage whose memory could be planned")
    if (recipe.lora.layers or 0) > base.layers:
        raise RecipeError(
            f"lora.layers: {recipe.lora.layers}, but base {recipe.base.name} has {base.layers} layers",
            "lora.layers",
        )
    check_shares(recipe, stages, machine.processes)
    responses = responses_of(recipe) if "rm" in stages else Responses()
    asked = Question(recipe, base, limits(recipe, responses, base.positions), machine)
    try:
        check_reading(base.model(torch.float32))
        check_logits(base.model(torch.float32))
        _refuse_beyond(recipe, base)
        found = plans(asked)
        said = notes(asked, stages, responses)
        advices = {stage: advise(asked, plan) for stage, plan in found.items() if not plan.fits}
    except UserError:
        raise
    except Exception as error:  # whatever a base does that cannot be run without its weights
        raise UserError(
            f"base {recipe.base.name} ({base.config.model_type}) cannot be counted: {type(error).__name__}: "
            f"{first_line(error)}. See that its config.json is complete. "
            "The stages start nevertheless, without a plan"
        ) from error
    if as_json:
        print(json.dumps(document(base, machine, found, advices, said), indent=2))
    else:
        print(text(base, machine, found, advices, said))
    return 2 if advices else 0


def _refuse_beyond(recipe: Recipe, base: PlannedBase) -> None:
    """Raise UserError where responses of ppo leave its prompts no position of the base."""
    room = recipe.ppo.max_response_tokens
    if "ppo" in stages_of(recipe) and base.positions is not None and room >= base.positions:
        raise UserError(
            f"ppo.max_response_tokens is {room:,}, and the base reads at most {base.positions:,} tokens, "
            f"prompt and response together: lower it, for example to {max(1, base.positions // 2):,}"
        )


def _machine(gpu: str | None, gpus: int | None, config: Path | None) -> Machine:
    count = gpus or 1
    sharded: Sharded = None
    if config is not None:
        processes, sharded = configured(config)
        count = gpus or processes
    return this_machine(count, sharded) if gpu is None else of_gpu(find_gpu(gpu), count, sharded)
