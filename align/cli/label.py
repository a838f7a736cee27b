"""`align label`: the app in which people label, and what goes into and comes out of its database."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from align.cli.failures import reported
from align.cli.options import (
    Buckets,
    ColumnsText,
    FormatName,
    Ignored,
    OutputFile,
    Overrides,
    RecipeFile,
    argument,
    labeling_app,
    load,
    option,
)
from align.errors import UserError
from align.records import RecordKind

# Options of `align label` in earlier versions that are subcommands now.
_NOW = {
    "--import": "align label import RECIPE FILE",
    "--with-labels": "align label import RECIPE FILE --with-labels",
    "--figures": "align label figures RECIPE",
    "--guideline-template": "align label guideline",
}


class _ServesByItself(TyperGroup):
    """`align label RECIPE …` is `align label serve RECIPE …`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Add `serve` where a recipe or an option stands; exit 2 at an option that is a subcommand now."""
        first = args[0] if args else "--help"
        names_a_recipe = re.search(r"[-./]", first) or Path(first).exists()
        if first not in (*self.commands, "-h", "--help") and names_a_recipe:
            with reported():
                for option in args:
                    if now := _NOW.get(option.partition("=")[0]):
                        raise UserError(f"{option} is a command of its own now: `{now}`")
            args = ["serve", *args]
        return super().parse_args(ctx, args)


label_app = typer.Typer(
    cls=_ServesByItself,
    help="People write demonstrations and rank responses: `align label RECIPE` serves the app (short for "
    "`align label serve RECIPE`); the others fill and read its database.",
    no_args_is_help=True,
)


@label_app.command()
def serve(
    recipe: RecipeFile,
    overrides: Overrides = None,
    host: Annotated[
        str, typer.Option("--host", help="Another address opens the app to the network, with accounts only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8700,
    url: Annotated[
        str | None,
        option("--url", "The address people open, where an https proxy is in front of the app.", "URL"),
    ] = None,
    chat: Annotated[
        list[Path] | None,
        option(
            "--chat",
            "Let people talk to this run's policy, on a page of its own (RUN, or RUN/sft); given twice, they "
            "compare two.",
            "RUN",
        ),
    ] = None,
) -> None:
    """Serve the app in which people write demonstrations and rank responses; prints a sign-in link."""
    with reported():
        loaded, app = load(recipe, overrides), labeling_app()
        if loaded.labeling.checks:
            from align.loop.try_checks import refuse_broken_checks
            from align.recipe.load import place_of

            refuse_broken_checks(loaded, partial(place_of, recipe, overrides or ()))
        app.serve(loaded, host, port, url, chat or ())


@label_app.command("import")
def import_tasks(
    recipe: RecipeFile,
    file: Annotated[Path, argument("FILE", "Tasks, ours or in a known format.")],
    overrides: Overrides = None,
    format: FormatName = None,
    columns: ColumnsText = None,
    buckets: Buckets = None,
    ignore: Ignored = None,
    with_labels: Annotated[
        bool, typer.Option("--with-labels", help="Keep rankings that name a labeler as that person's.")
    ] = False,
) -> None:
    """Add the tasks of a file to the database, also while the app runs on it."""
    with reported():
        from align.data.formats import given

        loaded = load(recipe, overrides)
        form = given(format, columns, buckets)
        labeling_app().import_tasks(loaded, file, with_labels, form, ignore or ())


@label_app.command()
def export(
    recipe: RecipeFile,
    kind: Annotated[RecordKind, argument("KIND", "demonstrations, rankings or prompts.")],
    overrides: Overrides = None,
    to: OutputFile = None,
    csv: Annotated[bool, typer.Option("--csv", help="A table; so does --to FILE.csv.")] = False,
) -> None:
    """Write what people made so far as JSON Lines or CSV; training reads the database without this."""
    with reported():
        from align.run.files import write_text

        loaded = load(recipe, overrides)
        rows = labeling_app().records_of(loaded, kind)
        if csv or to is not None and to.suffix.lower() == ".csv":
            lines = labeling_app().table_of(kind, rows)
        else:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if to is None:
            print(lines, end="")
        else:
            write_text(to, lines)
            print(f"{len(rows)} {kind} are in {to}")


@label_app.command()
def backup(
    recipe: RecipeFile,
    to: Annotated[Path, argument("TO", "A new file for the copy.")],
    overrides: Overrides = None,
) -> None:
    """Copy the database into a file, as it stands, also while the app runs on it."""
    with reported():
        size = labeling_app().back_up(load(recipe, overrides), to)
        print(f"{to} is a copy of the labeling database, {size:,} bytes; it holds secrets: keep it private")


@label_app.command()
def figures(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Print progress, agreement and win rates so far."""
    with reported():
        loaded = load(recipe, overrides)
        labeling_app().print_figures(loaded)


@label_app.command()
def guideline() -> None:
    """Print a guideline to begin with."""
    with reported():
        from labeling.guideline import read_guideline

        print(read_guideline(None), end="")
