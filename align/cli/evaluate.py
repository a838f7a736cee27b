"""`align evaluate` and `align serve`: what a run is worth, and its reward model behind an address."""

from __future__ import annotations

from typing import Annotated

import typer

from align.cli.failures import reported
from align.cli.options import MovedBase, Overrides, RecipeFile, RunFolder, TrustCode, load, option
from align.run.hub import quiet_bars

KEPT = "answers and verdicts so far are kept; the same command goes on"


def evaluate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    allow_seen: Annotated[
        bool, option("--allow-seen", "Also where prompts train in this recipe: figures may be too good.")
    ] = False,
) -> None:
    """Compare policies on held-out prompts: scores, KL, best-of-n, win rates, ratings, with intervals."""
    with reported() as context:
        loaded = load(recipe, overrides)
        from align.compare.run import evaluate as run

        quiet_bars()
        context.kept = KEPT
        run(loaded, allow_seen)


def serve(
    run: RunFolder,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8800,
    base: MovedBase = None,
    trust_remote_code: TrustCode = False,
) -> None:
    """Serve a run's reward model on this machine: POST /v1/score, and what OpenRLHF's trainers ask."""
    with reported() as context:
        from align.serving.serve import serve as run_server

        quiet_bars()
        context.kept = "the server has stopped"
        run_server(run, port, base, trust_remote_code)
