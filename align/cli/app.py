"""The command line. Nothing here imports torch: that waits until a stage runs."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from align import __version__
from align.cli import evaluate, loop
from align.cli.failures import reported, speak_in_any_encoding
from align.cli.label import label_app
from align.cli.options import (
    AccelerateConfig,
    Anyway,
    Buckets,
    ColumnsText,
    FormatName,
    Ignored,
    MovedBase,
    OutputFile,
    Overrides,
    Processes,
    RecipeFile,
    Restart,
    RunFolder,
    TrustCode,
    Without,
    argument,
    load,
    option,
    run_stages,
)
from align.errors import UserError
from align.run.hub import quiet_bars
from align.stage_table import STAGES, Accepted, Stage

HELP = """Teach a language model what people prefer: three stages, one recipe file.

[bold]Start here[/]

  align check recipe.yaml                         what is wrong with the data
  align run recipe.yaml                           all three stages
  align ppo recipe.yaml --set ppo.kl_coef=0.1     one stage, one value changed
  align evaluate recipe.yaml                      base, sft and ppo side by side
  align recipe show recipe.yaml                   every value, and where it came from

Stopped or killed? The same command goes on from the last checkpoint."""

EXIT_CODES = (
    "Exit codes: 0 done · 1 the machine or a library failed · 2 something to fix in the recipe, the data "
    "or the command · 3 an earlier stage has to run first · 130 interrupted · 143 stopped"
)

app = typer.Typer(
    name="align",
    help=HELP,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipe_app = typer.Typer(help="Look at a recipe without running it (show, schema).", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe", rich_help_panel="Look")

AcceptChanged = Annotated[
    Accepted | None,
    option(
        "--accept-changed",
        "reward: go on although a reward function of ppo has changed; the manifest notes both hashes.",
        "WHAT",
    ),
]


def main() -> None:
    """The console script `align`."""
    speak_in_any_encoding()
    _quiet_libraries()
    app(prog_name="align")


def _training(stages: list[Stage] | None) -> Callable[..., None]:
    """The command that runs these stages; None: those of the recipe, in order."""

    def with_rewards(
        recipe: RecipeFile,
        overrides: Overrides = None,
        without: Without = None,
        restart: Restart = False,
        accept_changed: AcceptChanged = None,
        anyway: Anyway = False,
        num_processes: Processes = None,
        accelerate_config: AccelerateConfig = None,
    ) -> None:
        accepted = [accept_changed] if accept_changed else []
        run_stages(
            *(stages, recipe, overrides, restart, num_processes, accelerate_config),
            *(accepted, anyway, without or ()),
        )

    def command(
        recipe: RecipeFile,
        overrides: Overrides = None,
        without: Without = None,
        restart: Restart = False,
        anyway: Anyway = False,
        num_processes: Processes = None,
        accelerate_config: AccelerateConfig = None,
    ) -> None:
        run_stages(
            *(stages, recipe, overrides, restart, num_processes, accelerate_config),
            anyway=anyway,
            without=without or (),
        )

    return with_rewards if stages is None or "ppo" in stages else command


for _stage, _about in STAGES.items():
    app.command(_stage, help=_about.help, rich_help_panel="Train")(_training([_stage]))
_RUN = "All three in order; finished stages are not run again, nor rm where no rankings are named or needed."
app.command("run", help=_RUN, rich_help_panel="Train")(_training(None))


@recipe_app.command("show")
def recipe_show(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Print every value of a recipe and where it came from."""
    with reported():
        from align.recipe.load import load_recipe, origins, values

        resolved = values(load_recipe(recipe, overrides or ()))
        came_from = origins(recipe, overrides or ())
        _print_table([(key, _as_yaml(value), came_from[key]) for key, value in resolved.items()])


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, with which editors check and complete them."""
    with reported():
        from align.recipe.load import json_schema

        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command(rich_help_panel="Look")
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Read all data that a recipe names and say what is wrong with it; nothing trains."""
    with reported():
        loaded = load(recipe, overrides)
        os.environ["TOKENIZERS_PARALLELISM"] = "true"  # tokenising takes most of the time; nothing forks
        from align.check.run import main as run_check

        raise typer.Exit(run_check(loaded, str(recipe)))


@app.command(rich_help_panel="Look")
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        option(
            "--gpu",
            "A card, as h100-80, or its numbers: mem=48,tflops=181,bandwidth=864. Without it: this machine.",
            "NAME",
        ),
    ] = None,
    gpus: Annotated[
        int | None, option("--gpus", "How many of it, a process each; else one.", "N", min=1)
    ] = None,
    accelerate_config: AccelerateConfig = None,
    as_json: Annotated[bool, option("--json", "Print it as JSON, sizes in bytes.")] = False,
) -> None:
    """Print the memory and the time that each stage needs, and what to change where it does not fit."""
    with reported() as context:
        loaded = load(recipe, overrides)
        context.recipe = recipe, overrides or ()
        from align.plan.run import main as run_plan

        raise typer.Exit(run_plan(loaded, gpu, gpus, accelerate_config, as_json))


@app.command(rich_help_panel="Look")
def report(run: RunFolder) -> None:
    """Write a run's page, report.html: what it is, what came out, what to look at; the stages do it too."""
    with reported():
        from align.report.page import write_report

        print(write_report(run))


@app.command(rich_help_panel="Look")
def lineage(
    run: RunFolder,
    base: MovedBase = None,
    trust_remote_code: TrustCode = False,
    saw: Annotated[
        list[str] | None,
        option(
            "--saw",
            "Ask which weights saw labeler:NAME, source:NAME or record:FILE:LINE; several times too.",
            "WHAT",
        ),
    ] = None,
    as_json: Annotated[bool, option("--json", "With --saw: print it as JSON.")] = False,
) -> None:
    """Print what a run was made from, and verify that all of it is still what was written down."""
    with reported():
        if saw:
            from align.serving.saw import show_saw

            raise typer.Exit(show_saw(run, saw, base, trust_remote_code, as_json))
        if as_json:
            raise UserError("--json is for what --saw asks: add --saw labeler:NAME")
        from align.serving.lineage import show

        raise typer.Exit(show(run, base, trust_remote_code))


@app.command(rich_help_panel="Use")
def score(
    run: RunFolder,
    file: Annotated[Path, argument("FILE", "Records with a prompt and responses (.jsonl, .csv, …).")],
    to: OutputFile = None,
    format: FormatName = None,
    columns: ColumnsText = None,
    buckets: Buckets = None,
    ignore: Ignored = None,
    base: MovedBase = None,
    trust_remote_code: TrustCode = False,
) -> None:
    """Score responses with a run's reward model: each record again, with its score, in the file's order."""
    with reported():
        from align.data.formats import given
        from align.serving.score import score as score_file

        quiet_bars()
        form = given(format, columns, buckets)
        score_file(run, file, to, form, base, trusted=trust_remote_code, ignore=ignore or ())


@app.command(rich_help_panel="Use")
def export(
    run: RunFolder,
    stage: Annotated[
        Stage,
        typer.Option("--stage", help="rm: the reward model; sft, ppo: the policy after that stage."),
    ] = "rm",
    to: Annotated[Path | None, option("--to", "Without it: RUN/export/STAGE.", "FOLDER")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="What weights are saved as.")
    ] = "float32",
    base: MovedBase = None,
    trust_remote_code: TrustCode = False,
) -> None:
    """Write a stage's model merged with its base: a plain transformers checkpoint, proved to be the same."""
    with reported():
        from align.serving.export import export as export_stage

        quiet_bars()
        export_stage(run, stage, to, dtype, base, trusted=trust_remote_code)


app.command(rich_help_panel="Use")(evaluate.evaluate)
app.command(rich_help_panel="Use")(evaluate.compare)
app.command(rich_help_panel="Use")(evaluate.serve)
app.add_typer(label_app, name="label", rich_help_panel="Label")
for _command in (loop.generate, loop.suggest, loop.chat, loop.iterate):
    app.command(rich_help_panel="Label")(_command)


@app.command(rich_help_panel="Look")
def doctor() -> None:
    """Print versions and devices, and what is missing with the line that installs it."""
    with reported():
        from align.cli import doctor

        raise typer.Exit(doctor.main())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"align {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, option("--version", "Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _as_yaml(value: object) -> str:
    """A value on one line, as a recipe could say it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print_table(rows: list[tuple[str, str, str]]) -> None:
    """Key, value and origin: a table on a terminal, aligned columns elsewhere."""
    if not sys.stdout.isatty():
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        for key, value, origin in rows:
            print(f"{key:{widths[0]}}  {value:{widths[1]}}  {origin}")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for title in ("key", "value", "from"):
        table.add_column(title, overflow="fold", no_wrap=title == "key")
    section = ""
    for key, value, origin in rows:
        if section and key.partition(".")[0] != section:
            table.add_section()
        section = key.partition(".")[0]
        style = "dim" if origin == "default" else ""
        table.add_row(Text(key), Text(value), Text(origin), style=style)
    Console().print(table)


def _quiet_libraries() -> None:
    """Before any library is imported: no telemetry, no advice meant for programmers."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DATASETS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "LOGLEVEL": "CRITICAL",  # torch's launcher; what failed in a process is told by that process
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
