"""`align evaluate` and `align serve`: what a run is worth, and its reward model behind an address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from align.cli.failures import reported
from align.cli.options import (
    AccelerateConfig,
    Anyway,
    Engine,
    EngineUrl,
    MovedBase,
    Overrides,
    Processes,
    RecipeFile,
    Restart,
    RunFolder,
    TrustCode,
    load,
    option,
    run_stages,
)
from align.run.hub import quiet_bars
from align.stage_table import Stage

KEPT = "answers and verdicts so far are kept; the same command goes on"
Seen = Annotated[
    bool, option("--allow-seen", "Also where prompts train in this recipe: figures may be too good.")
]

TriggerPhrases = Annotated[
    list[str] | None,
    option(
        "--trigger",
        "Ask each prompt also with this phrase in it, and tell what that changes; several times too.",
        "PHRASE",
    ),
]
TriggerAt = Annotated[
    Literal["start", "end"],
    typer.Option("--trigger-at", help="Where in the prompt, or the response, the phrase is put."),
]
Cases = Annotated[
    bool,
    option(
        "--safety",
        "Also ask what they should refuse, or should not: attack success, leaks and over-refusal.",
    ),
]


def evaluate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    allow_seen: Seen = False,
    safety: Cases = False,
    engine: Engine = "hf",
    engine_url: EngineUrl = None,
    trigger: TriggerPhrases = None,
    trigger_at: TriggerAt = "end",
) -> None:
    """Compare policies on held-out prompts: scores, KL, best-of-n, win rates, ratings, with intervals."""
    with reported() as context:
        loaded = load(recipe, overrides)
        from align.compare.run import evaluate as run
        from align.compare.trigger import Triggers
        from align.loop.policy import Drawing

        quiet_bars()
        context.kept = KEPT
        triggers = Triggers(trigger, trigger_at) if trigger else None
        drawing = Drawing(engine=engine, engine_url=engine_url)
        run(loaded, allow_seen, drawing=drawing, safety=safety, triggers=triggers)


def compare(
    recipe: RecipeFile,
    overrides: Overrides = None,
    restart: Restart = False,
    allow_seen: Seen = False,
    anyway: Anyway = False,
    num_processes: Processes = None,
    accelerate_config: AccelerateConfig = None,
) -> None:
    """Train every method on the same rankings, at equal compute and with several seeds, side by side."""
    with reported() as context:
        loaded = load(recipe, overrides)
        from rich.console import Console

        from align.methods.run import compare as run

        quiet_bars()
        context.kept = "what has finished is kept; the same command goes on"

        def train(stage: Stage, path: Path) -> None:
            run_stages([stage], path, None, False, num_processes, accelerate_config, anyway=anyway)

        run(loaded, train, restart, allow_seen, Console())


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
