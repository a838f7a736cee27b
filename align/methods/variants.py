"""What each method of `align compare` is: the recipe with a few lines changed, in a run folder of its own.

runs/mine/                       sft and rm of the recipe's own seed, as `align run` trains them
runs/mine/compare/shared-1/      sft and rm of another seed
runs/mine/compare/rloo-1/        the ppo stage with advantage rloo, from these
runs/mine/compare/recipes/*.yaml what trains, one file a run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from align.errors import UserError
from align.recipe.compare import Method
from align.recipe.data import LABELS, Entry, Source
from align.recipe.sections import Recipe
from align.stage_table import Stage
from align.stages.frame import source

BEST_OF_N: Method = "best-of-n"
STAGE_OF: dict[Method, Stage] = {"ppo": "ppo", "rloo": "ppo", "group": "ppo", "dpo": "dpo", "sft-best": "sft"}
ADVANTAGE: dict[Method, str] = {"ppo": "gae", "rloo": "rloo", "group": "group"}
NEEDS_REWARDS: tuple[Method, ...] = ("ppo", "rloo", "group", "best-of-n")


@dataclass(frozen=True)
class Starts:
    """The run folders of one seed's SFT policy and reward model; rm None where nothing asks for one."""

    sft: str
    rm: str | None


def chosen(recipe: Recipe) -> tuple[list[Method], list[str]]:
    """The methods that the recipe compares, and why others are left out.

    Raises UserError where it names no rankings, or a method that it has not what is needed for.
    """
    source(recipe, "rankings", "compare")
    why_not: dict[Method, str] = {}
    if recipe.data.prompts is None:
        said = "the recipe names no data.prompts to answer"
        why_not = dict.fromkeys(NEEDS_REWARDS, said)
    if recipe.evaluate.best_of < 2:
        why_not[BEST_OF_N] = "evaluate.best_of is 0"
    named = recipe.compare.methods
    if named is None:
        everything: list[Method] = [*STAGE_OF, BEST_OF_N]
        kept = [method for method in everything if method not in why_not]
        return kept, [f"{method} is left out: {why}" for method, why in why_not.items()]
    if wrong := [method for method in named if method in why_not]:
        raise UserError(f"compare.methods: {wrong[0]} cannot be compared: {why_not[wrong[0]]}")
    return list(named), []


def refuse_growing(recipe: Recipe) -> None:
    """Raise UserError where labels may come in while methods train, which then would not learn the same."""
    for kind in ("demonstrations", "rankings", "prompts"):
        found: Source | None = getattr(recipe.data, kind)
        for entry in found.entries if found else ():
            if entry.format == LABELS and entry.until is None:
                raise UserError(
                    f"data.{kind} reads the labeling database {entry.path}, which may grow while methods "
                    "train: say up to which label, with `until: NUMBER` beside `labels`"
                )


def shared(recipe: Recipe, folder: Path, seed: int) -> Recipe:
    """The recipe whose sft and rm a seed's methods start from; of the recipe's own seed, its own run."""
    if seed == recipe.run.seed:
        return recipe
    run = recipe.run.model_copy(update={"folder": str(folder), "name": f"shared-{seed}", "seed": seed})
    return recipe.model_copy(update={"run": run})


def starts(recipe: Recipe, folder: Path, seed: int) -> Starts:
    """Where a seed's methods start: the runs that the recipe names, or else the seed's own."""
    own = str(shared(recipe, folder, seed).run.path.absolute())
    needs_rm = recipe.ppo.needs_rm
    return Starts(recipe.ppo.sft or own, (recipe.ppo.rm or own) if needs_rm else None)


def variant(
    recipe: Recipe, method: Method, seed: int, folder: Path, start: Starts, steps: int | None
) -> Recipe:
    """The recipe of one method's run. steps: updates, or iterations; None: as its section says.

    Raises UserError where the method does not go with the recipe's ppo.
    """
    run = recipe.run.model_copy(update={"folder": str(folder), "name": f"{method}-{seed}", "seed": seed})
    if STAGE_OF[method] == "ppo":
        return recipe.model_copy(update={"run": run, "ppo": _ppo(recipe, method, start, steps)})
    if method == "dpo":
        dpo = recipe.dpo.model_copy(update={"sft": start.sft} | ({"steps": steps} if steps else {}))
        return recipe.model_copy(update={"run": run, "dpo": dpo})
    update: dict[str, Any] = {
        "start": start.sft,
        "max_length": max(recipe.sft.max_length, recipe.rm.max_length),
    }
    update |= {"steps": steps} if steps else {}
    sft = recipe.sft.model_copy(update=update)
    data = recipe.data.model_copy(update={"demonstrations": best_answers(folder)})
    return recipe.model_copy(update={"run": run, "sft": sft, "data": data})


def best_answers(folder: Path) -> Source:
    """The demonstrations that `align.methods.best_answers` writes."""
    train, held_out = (folder / "best-answers" / f"{side}.jsonl" for side in ("train", "held_out"))
    entries = [Entry(path=str(path), format="align") for path in (train, held_out)]
    there = held_out.is_file() and held_out.stat().st_size > 0
    return Source(train=entries[:1], held_out=entries[1:] if there else 0.0)


def _ppo(recipe: Recipe, method: Method, start: Starts, iterations: int | None) -> Any:
    each = recipe.compare.responses_per_prompt
    try:
        ppo = recipe.ppo.with_advantage(ADVANTAGE[method], each)
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise UserError(
            f"compare: {method} does not go with the recipe's ppo: {said}. (compare.responses_per_prompt is "
            f"{each}.) Or leave {method} out of compare.methods"
        ) from None
    update: dict[str, Any] = {"sft": start.sft, "rm": start.rm}
    return ppo.model_copy(update=update | ({"iterations": iterations} if iterations else {}))


def measured(
    recipe: Recipe, seed: int, folder: Path, start: Starts, policies: list[str], best: int
) -> Recipe:
    """The recipe by which a seed's policies are evaluated. best: answers of the SFT policy to a prompt."""
    run = recipe.run.model_copy(update={"folder": str(folder), "name": f"seed-{seed}", "seed": seed})
    ppo = recipe.ppo.model_copy(update={"sft": start.sft, "rm": start.rm})
    update = {"policies": ["sft", *policies], "best_of": best, "lm_eval": None, "reward_bench": None}
    evaluate = recipe.evaluate.model_copy(update=update)
    return recipe.model_copy(update={"run": run, "ppo": ppo, "evaluate": evaluate})
