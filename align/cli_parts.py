"""What commands share: options, the labeling app, and libraries kept quiet."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from align.failures import ended, reported
from align.runtime.hub import quiet_bars
from align.stage_table import Stage

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the recipe, for example ppo.kl_coef=0.1; can be given several times.",
        show_default=False,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--num-processes",
        min=1,
        metavar="N",
        help="Work in N processes; without it: one for each GPU, or a single one on a CPU.",
        show_default=False,
    ),
]
AccelerateConfig = Annotated[
    Path | None,
    typer.Option(
        "--accelerate-config",
        metavar="FILE",
        help="What `accelerate config` wrote: several machines, FSDP, DeepSpeed.",
        show_default=False,
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.", show_default=False)
]
MovedBase = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="FOLDER",
        help="Where the base lies now, if not where the run's recipe says.",
        show_default=False,
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the code that the run's base brings; without this such a base is refused.",
        show_default=False,
    ),
]


def run_stages(
    stages: list[Stage],
    path: Path,
    overrides: list[str] | None,
    restart: bool,
    num_processes: int | None,
    accelerate_config: Path | None,
) -> None:
    """Runs stages of a recipe here, or in processes that are started for each of them."""
    with reported() as context:
        from align.recipe_file import load_recipe

        recipe = load_recipe(path, overrides or ())
        from align.runtime import launch

        elsewhere = launch.needed(num_processes, accelerate_config)
        if len(stages) > 1 and not recipe.ppo.needs_rm and recipe.data.rankings is None:
            stages = [stage for stage in stages if stage != "rm"]  # functions or other runs judge
        for stage in stages:
            context.stage, context.folder = stage, recipe.run.path / stage
            if not elsewhere:
                module = importlib.import_module(f"align.stages.{stage}")
                quiet_bars()
                module.run(recipe, restart=restart)
                continue
            arguments = [stage, str(path), *(part for o in overrides or () for part in ("--set", o))]
            arguments += ["--restart"] if restart else []
            code = launch.start(stage, arguments, num_processes, accelerate_config, recipe.run.grace)
            if code:
                ended(code)
                raise typer.Exit(code)


def labeling_app() -> Any:
    """The app, which needs libraries of its own."""
    from align.loop.queues import labeling_package

    return labeling_package("labeling.serve")
