"""All processes of a stage have the same recipe and read the same files, or none of them begins."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from align.errors import UserError
from align.recipe.sections import Recipe
from align.run.lineage import TEMPLATE_KEYS
from align.stage_table import Stage


def agree_on_recipe(recipe: Recipe, stage: Stage, accel: Accelerator) -> None:
    """Raise UserError on every process unless all have the same values for this stage.

    Processes with other rates would train copies that drift apart, and ones with other steps would wait for
    each other for ever. Where files lie may differ: what is in them is compared by `agree_on_files`.
    """
    whole = recipe.model_dump(mode="json")
    elsewhere = {"base": ("name", "revision"), "run": ("folder", "threads")}
    values = {
        f"{section}.{key}": json.dumps(value, ensure_ascii=False)
        for section in ("base", "lora", "run", stage)
        for key, value in whole[section].items()
        if key not in elsewhere.get(section, ())
    }
    values |= {f"data.{key}": json.dumps(whole["data"][key], ensure_ascii=False) for key in TEMPLATE_KEYS}
    for other, theirs, here, mine in _others(values, accel):
        differing = [key for key in sorted(mine) if mine[key] != theirs[key]]
        told = ", ".join(f"{key} is {theirs[key]} there and {mine[key]} here" for key in differing[:5])
        more = f", and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(
            f"{other} has another recipe than {here}: {told}{more}. Start all processes with the same recipe "
            "and the same --set"
        )


def agree_on_files(made_of: Mapping[str, Any], accel: Accelerator) -> None:
    """Raise UserError on every process unless all of them have the same base, parents and records."""
    for other, theirs, here, mine in _others(made_of, accel):
        differing = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
        raise UserError(
            f"{other} does not read what {here} reads: {', '.join(differing)}. Put the same files in the "
            "same places on all machines, and change none while a stage starts"
        )


def _others(
    mine: Mapping[str, Any], accel: Accelerator
) -> list[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Processes that have not what process 0 has: (which, what it has, process 0, what that has)."""
    if accel.num_processes == 1:
        return []
    found = gather_object([(socket.gethostname(), dict(mine))])
    names = [f"process {rank} (on {host})" for rank, (host, _) in enumerate(found)]
    first = found[0][1]
    return [
        (name, theirs, names[0], first)
        for name, (_, theirs) in zip(names, found, strict=True)
        if theirs != first
    ]
