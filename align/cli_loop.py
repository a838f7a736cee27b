"""The commands of the loop: sample from a policy, let people label, train, again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from align.cli_parts import (
    AccelerateConfig,
    MovedBase,
    Overrides,
    Processes,
    RecipeFile,
    RunFolder,
    run_stages,
)
from align.failures import reported
from align.runtime.hub import quiet_bars
from align.stage_table import Stage

KEPT = "what came so far is kept; the same command goes on"


class PolicyName(StrEnum):
    base = "base"
    sft = "sft"
    ppo = "ppo"


class TrainedPolicy(StrEnum):
    sft = "sft"
    ppo = "ppo"


class PriorityName(StrEnum):
    none = "none"
    margin = "margin"
    disagreement = "disagreement"


Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", min=0.01, max=100.0, help="Without it: ppo.temperature.", show_default=False
    ),
]
TopK = Annotated[
    int | None,
    typer.Option("--top-k", min=1, help="Draw from the K likeliest tokens only.", show_default=False),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        min=1e-6,
        max=1.0,
        help="Draw from the likeliest tokens only, that make up this probability.",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Without it: run.seed.", show_default=False)]


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="A running app's address, as `align label` prints it.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="A machine's token for --url, made under People; without it: ALIGN_LABELING_TOKEN in the "
        "environment.",
        show_default=False,
    ),
]


def add_to(app: typer.Typer) -> None:
    """Make these commands of the app's."""
    app.command(rich_help_panel="Label")(generate)
    app.command(rich_help_panel="Label")(suggest)
    app.command(rich_help_panel="Label")(chat)
    app.command(rich_help_panel="Label")(iterate)


def generate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    stage: Annotated[
        PolicyName, typer.Option("--stage", help="Whose responses: after sft, after ppo, or the base's.")
    ] = PolicyName.sft,
    k: Annotated[int, typer.Option("--k", min=2, max=9, help="Responses a prompt.")] = 4,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            metavar="N",
            help="Until N prompts have a task of this policy; without it: all of data.prompts.",
            show_default=False,
        ),
    ] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    priority: Annotated[
        PriorityName,
        typer.Option(
            "--priority",
            help="What people do first. margin: where the reward model cannot tell the best two apart; "
            "disagreement: where several reward models disagree.",
        ),
    ] = PriorityName.none,
    reward_models: Annotated[
        list[Path] | None,
        typer.Option(
            "--reward-model",
            metavar="RUN",
            help="Another run's reward model; several for disagreement.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="Into a JSON Lines file, for `align label --import`.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Sample responses from a policy into the labeling queue; a rerun goes on and doubles nothing."""
    with reported() as context:
        from align.recipe_file import load_recipe

        loaded = load_recipe(recipe, overrides or ())
        from align.loop.generate import Wanted, check
        from align.loop.generate import generate as run
        from align.loop.policy import Drawing

        drawing = Drawing(temperature, top_k, top_p, seed)
        models = tuple(reward_models or ())
        wanted = Wanted(stage.value, k, count, drawing, priority.value, models, to, url, token_file)
        check(wanted)
        quiet_bars()
        context.kept = KEPT
        run(loaded, wanted)


def suggest(
    run: RunFolder,
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="The app's address, as `align label` prints it.")
    ] = "http://127.0.0.1:8700",
    token_file: TokenFile = None,
    base: MovedBase = None,
) -> None:
    """Score an app's tasks with a run's reward model; labeling.suggestions says what people see of it."""
    with reported() as context:
        from align.serving.suggest import suggest as send

        context.kept = KEPT
        send(run, url, token_file, base)


def chat(
    run: RunFolder,
    stage: Annotated[
        TrainedPolicy | None,
        typer.Option("--stage", help="Without it: the policy after ppo, else after sft.", show_default=False),
    ] = None,
    base: MovedBase = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            min=1,
            help="Of an answer; without it: ppo.max_response_tokens.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: JSON lines in and out.", show_default=False)
    ] = False,
) -> None:
    """Talk to a policy; what you write in place of a wrong answer becomes a demonstration."""
    with reported():
        from align.loop.chat import chat as talk
        from align.loop.converse import open_partner
        from align.loop.keep import open_keeper
        from align.loop.policy import Drawing

        drawing = Drawing(temperature, top_k, top_p, seed, max_tokens)
        quiet_bars()
        partner = open_partner(run, stage.value if stage else None, drawing, base)
        raise typer.Exit(talk(partner, lambda: open_keeper(partner.recipe), as_json))


def iterate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    rankings: Annotated[
        int, typer.Option("--rankings", min=1, metavar="N", help="How many a round needs.")
    ] = 100,
    demonstrations: Annotated[
        int,
        typer.Option(
            "--demonstrations", min=1, metavar="N", help="How many sft needs, where people write them."
        ),
    ] = 50,
    k: Annotated[int, typer.Option("--k", min=2, max=9, help="Responses a task.")] = 4,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    num_processes: Processes = None,
    accelerate_config: AccelerateConfig = None,
) -> None:
    """Run one round as far as it goes without people, and say what they have to do next."""
    with reported():
        from align.recipe_file import load_recipe

        loaded = load_recipe(recipe, overrides or ())
        from rich.console import Console

        from align.loop.iterate import Goal
        from align.loop.iterate import iterate as run
        from align.loop.policy import Drawing

        def train(stage: Stage, path: Path) -> None:
            run_stages([stage], path, None, False, num_processes, accelerate_config)

        quiet_bars()
        goal = Goal(rankings, demonstrations, k, Drawing(temperature, top_k, top_p))
        run(loaded, str(recipe), goal, train, Console())
