"""Whether the checks of a recipe can be made at all, before the labeling app serves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from align.errors import MissingStage, UserError
from align.recipe.labeling import Check
from align.recipe.parts import Keys
from align.recipe.sections import Recipe
from align.text import dotted

_LOADS_WITHIN = 300.0  # seconds: what a function imports may take its time


def refuse_broken_checks(recipe: Recipe, where: Callable[[Keys], str]) -> None:
    """Raise UserError that names all checks that cannot be made: no such function, no reward model.

    `where`: the place of a key in the recipe, as messages say it. No model is loaded.
    """
    lines = []
    for number, check in enumerate(recipe.labeling.checks or ()):
        key, problem = "run", _model_missing(check, recipe.run.path)
        if check.function:
            key, problem = "function", _tried(check.function)
        if problem:
            keys: Keys = ("labeling", "checks", number, key)
            lines.append(f"{where(keys)}: {dotted(keys)}: {problem}")
    if lines:
        raise UserError(
            "\n".join(lines if len(lines) == 1 else [f"{len(lines)} checks cannot be made", *lines])
        )


def _model_missing(check: Check, own: Path) -> str | None:
    """Why the run of a check has no reward model that can be used; None where it has, or there is no run."""
    from align.run.lineage import as_trained, parent, refuse_code

    if not check.run:
        return None
    folder = own if check.run == "this" else Path(check.run)
    try:
        theirs, _ = as_trained(folder, "rm")
        refuse_code(theirs, folder, trusted=False)
        parent(theirs, "rm", str(folder), {})
    except UserError as error:
        if check.run != "this" or (folder / "rm").is_dir() and not isinstance(error, MissingStage):
            return str(error)
        return (
            f"this run has no reward model yet: train one (`align rm`), or leave this check out until then "
            f"({folder / 'rm'} is not finished)"
        )
    return None


def _tried(function: str) -> str | None:
    """What is wrong with a function, found in a process of its own: what it imports isn't for the app."""
    command = [sys.executable, "-m", "align.loop.checks", "--try"]
    asked = json.dumps(function) + "\n"
    try:
        done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, timeout=_LOADS_WITHIN)
    except subprocess.TimeoutExpired:
        return f"importing {function} took longer than {_LOADS_WITHIN:.0f} seconds"
    if done.returncode or not done.stdout:
        return f"importing {function} ended Python with code {done.returncode}"
    problem = json.loads(done.stdout)
    return None if problem is None else str(problem)
