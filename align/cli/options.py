"""What commands share: options, the labeling app, and libraries kept quiet."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from align.cli.failures import ended, reported
from align.cli.without import overrides_without
from align.errors import RecipeError, UserError
from align.recipe import EngineName
from align.run.hub import quiet_bars
from align.stage_table import STAGES, Accepted, Stage

if TYPE_CHECKING:
    from align.recipe.sections import Recipe


def option(name: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    """An option whose help says what happens without it, so that no default is shown."""
    return typer.Option(name, help=help, metavar=metavar, show_default=False, **more)


def argument(metavar: str, help: str) -> Any:
    """An argument that has to be given."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


RecipeFile = Annotated[Path, argument("RECIPE", "The recipe, a YAML file.")]
RunFolder = Annotated[Path, argument("RUN", "A run's folder, such as runs/quickstart.")]
Overrides = Annotated[
    list[str] | None,
    option(
        "--set",
        "Change one value of the recipe, for example ppo.kl_coef=0.1; can be given several times.",
        "KEY=VALUE",
    ),
]
Without = Annotated[
    list[str] | None,
    option(
        "--without",
        "Leave these records out: labeler:NAME, source:NAME, record:FILE:LINE; can be given several times.",
        "WHAT",
    ),
]
Processes = Annotated[
    int | None,
    option(
        "--num-processes",
        "Work in N processes; without it: one for each GPU, or a single one on a CPU.",
        "N",
        min=1,
    ),
]
AccelerateConfig = Annotated[
    Path | None,
    option(
        "--accelerate-config", "What `accelerate config` wrote: several machines, FSDP, DeepSpeed.", "FILE"
    ),
]
MovedBase = Annotated[
    Path | None, option("--base", "Where the base is now, if not where the run's recipe says.", "FOLDER")
]
TrustCode = Annotated[
    bool,
    option(
        "--trust-remote-code",
        "Run the code that comes with the run's base; without this such a base is refused.",
    ),
]
FormatName = Annotated[
    str | None,
    option("--format", "The file's format, or module:function, where its columns don't show it.", "NAME"),
]
ColumnsText = Annotated[
    str | None,
    option(
        "--columns",
        "Which column is what, as `columns:` of a recipe says it: '{prompt: q, responses: \\[a, b]}'.",
        "MAPPING",
    ),
]
Buckets = Annotated[
    str | None,
    option("--buckets", "label-studio: the names of a ranker's buckets, best first.", "NAMES"),
]
Ignored = Annotated[
    list[str] | None,
    option("--ignore", "A column to leave out of what is read; can be given several times.", "COLUMN"),
]
Anyway = Annotated[
    bool,
    option(
        "--anyway",
        "Start also where the plan says that memory will not do, and `run` also where ppo's vLLM server is "
        "not there yet.",
    ),
]
Restart = Annotated[bool, option("--restart", "Start anew; what is there is set aside, not deleted.")]
Engine = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="What samples: transformers' forward pass, its continuous batching, or a vLLM server.",
    ),
]
EngineUrl = Annotated[
    list[str] | None,
    option(
        "--engine-url",
        "Where the server of --engine vllm listens, such as http://localhost:8000; several share the rows.",
        "URL",
    ),
]
OutputFile = Annotated[Path | None, option("--to", "Write here, not to stdout.", "FILE")]


def load(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe that a command names. What reads it is imported here, as `--help` does without."""
    from align.recipe.load import load_recipe

    return load_recipe(path, overrides or ())


def run_stages(
    stages: list[Stage] | None,
    path: Path,
    overrides: list[str] | None,
    restart: bool,
    num_processes: int | None,
    accelerate_config: Path | None,
    accepted: Sequence[Accepted] = (),
    anyway: bool = False,
    without: Sequence[str] = (),
) -> None:
    """Runs these stages of a recipe, or all of them, here or in processes that are started for each.

    accepted: what may have changed since ppo began. anyway: also where the plan says that memory will not do.
    without: records to leave out, beside those that the recipe leaves out.
    """
    with reported() as context:
        recipe = load(path, overrides)
        from align.processes import launch
        from align.recipe.load import stages_of

        if without:
            left_out = overrides_without(recipe, stages_of(recipe) if stages is None else stages, without)
            overrides = [*(overrides or ()), *left_out]
            recipe = load(path, overrides)
        context.recipe = path, overrides or ()

        elsewhere = launch.needed(num_processes, accelerate_config)
        if line := launch.told(num_processes, accelerate_config):
            print(line, flush=True)
        chosen = stages_of(recipe) if stages is None else stages
        if len(chosen) > 1 and not anyway:
            from align.plan.guard import check_all

            check_all(recipe, chosen, num_processes, accelerate_config)
        if len(chosen) > 1:
            from align.check.ahead import look_ahead
            from align.plan.shares import check_shares

            check_shares(recipe, chosen, launch.how_many(num_processes, accelerate_config))

            context.folder = recipe.run.path
            _greet_servers(recipe, chosen, anyway)
            look_ahead(recipe, chosen)
        for stage in chosen:
            context.stage, context.folder = stage, recipe.run.path / stage
            if not elsewhere:
                module = importlib.import_module(STAGES[stage].module)
                quiet_bars()
                more: dict[str, Any] = {"accepted": accepted} if stage == "ppo" and accepted else {}
                more |= {"anyway": True} if anyway else {}
                module.run(recipe, restart=restart, **more)
                continue
            arguments = [stage, str(path), *(part for o in overrides or () for part in ("--set", o))]
            arguments += ["--restart"] if restart else []
            arguments += ["--anyway"] if anyway else []
            if stage == "ppo":
                arguments += [part for what in accepted for part in ("--accept-changed", what)]
            code = launch.start(stage, arguments, num_processes, accelerate_config, recipe.run.grace)
            if code:
                ended(code)
                raise typer.Exit(code)


def _greet_servers(recipe: Recipe, stages: Sequence[Stage], anyway: bool) -> None:
    """Raise UserError where none of the servers that ppo will sample on is there, before anything trains.

    anyway: say so and go on, as they may be started meanwhile.
    """
    finished = (recipe.run.path / "ppo" / "final").is_dir()
    if "ppo" not in stages or recipe.ppo.engine != "vllm" or finished or os.environ.get("RANK", "0") != "0":
        return
    from align.sampling.engines import check_servers

    try:
        for one in check_servers(recipe.ppo):
            print(f"warning: {one}. The others are there", flush=True)
    except UserError as error:
        first = " and ".join(stage for stage in stages if stage != "ppo")
        if not anyway:
            raise RecipeError(
                f"{error}\nppo would be refused so after {first} have trained; nothing was started. Will the "
                "server be there by then? --anyway starts without it",
                "ppo.engine_url",
            ) from error
        print(
            f"warning: {error}\nppo asks again when its turn comes, and is refused if it is not there",
            flush=True,
        )


def labeling_app() -> Any:
    """The app, which needs libraries of its own."""
    from align.loop.queues import labeling_package

    return labeling_package("labeling.serve")
