"""The commands of the loop: sample from a policy, let people label, train, again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from align.cli.failures import reported
from align.cli.options import (
    AccelerateConfig,
    Engine,
    EngineUrl,
    MovedBase,
    Overrides,
    Processes,
    RecipeFile,
    RunFolder,
    load,
    option,
    run_stages,
)
from align.errors import UserError
from align.recipe import Priority as PriorityName
from align.run.hub import quiet_bars
from align.stage_table import Stage

KEPT = "what was done so far is kept; the same command goes on"


Count = Annotated[
    int | None,
    option("--count", "Until N prompts have a task from it; without it: all of data.prompts.", "N", min=1),
]
Priority = Annotated[
    PriorityName | None,
    option(
        "--priority",
        "What people do first; without it: labeling.priority. margin: where the reward model cannot tell the "
        "best two apart; gap: where they are far apart; disagreement: where several reward models disagree.",
    ),
]
RewardModels = Annotated[
    list[Path] | None,
    option(
        "--reward-model", "Another run's reward model; several, or one with members, for disagreement.", "RUN"
    ),
]
ToFile = Annotated[Path | None, option("--to", "Into a JSON Lines file, for `align label import`.", "FILE")]
Temperature = Annotated[
    float | None, option("--temperature", "Without it: ppo.temperature.", min=0.01, max=100.0)
]
TopK = Annotated[int | None, option("--top-k", "Draw from the K likeliest tokens only.", min=1)]
TopP = Annotated[
    float | None,
    option(
        "--top-p", "Draw only from the likeliest tokens, up to this probability in all.", min=1e-6, max=1.0
    ),
]
Seed = Annotated[int | None, option("--seed", "Without it: run.seed.", min=0)]
Url = Annotated[str | None, option("--url", "A running app's address, as `align label` prints it.", "URL")]
TokenFile = Annotated[
    Path | None,
    option(
        "--token-file",
        "A machine's token for --url, made under People; without it: ALIGN_LABELING_TOKEN in the "
        "environment.",
        "FILE",
    ),
]


def generate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    stage: Annotated[
        Literal["base", "sft", "ppo"],
        typer.Option("--stage", help="Whose responses: after sft, after ppo, or the base's."),
    ] = "sft",
    k: Annotated[int, typer.Option("--k", min=2, max=9, help="Responses per prompt.")] = 4,
    count: Count = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    priority: Priority = None,
    reward_models: RewardModels = None,
    engine: Engine = "hf",
    engine_url: EngineUrl = None,
    to: ToFile = None,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Sample responses from a policy into the labeling queue; a rerun goes on and adds nothing twice."""
    with reported() as context:
        loaded = load(recipe, overrides)
        from align.loop.generate import Wanted, check
        from align.loop.generate import generate as run
        from align.loop.policy import Drawing

        drawing = Drawing(temperature, top_k, top_p, seed, engine=engine, engine_url=engine_url)
        models = tuple(reward_models or ())
        wanted = Wanted(stage, k, count, drawing, priority, models, to, url, token_file)
        check(loaded, wanted)
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
        from align.loop.suggest import suggest as send

        context.kept = KEPT
        send(run, url, token_file, base)


def chat(
    run: RunFolder,
    stage: Annotated[
        Literal["sft", "ppo"] | None, option("--stage", "Without it: the policy after ppo, else after sft.")
    ] = None,
    base: MovedBase = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    max_tokens: Annotated[
        int | None, option("--max-tokens", "Per answer; without it: ppo.max_response_tokens.", min=1)
    ] = None,
    engine: Engine = "hf",
    engine_url: EngineUrl = None,
    as_json: Annotated[bool, option("--json", "For programs: JSON lines in and out.")] = False,
    beside: Annotated[
        Path | None, option("--beside", "With --json: a second run's policy on the same base.", "RUN")
    ] = None,
    beside_stage: Annotated[
        Literal["sft", "ppo"] | None, option("--beside-stage", "As --stage, for the second run.")
    ] = None,
) -> None:
    """Talk to a policy; what you write in place of a wrong answer becomes a demonstration."""
    with reported():
        from align.loop.chat import chat as talk
        from align.loop.chat_lines import talk_in_lines
        from align.loop.policy import Drawing, check_drawing, open_beside, open_partner
        from align.loop.queues import open_keeper

        drawing = Drawing(temperature, top_k, top_p, seed, max_tokens, engine, engine_url)
        check_drawing(drawing)
        if beside is not None and not as_json:
            raise UserError("--beside goes with --json; people compare two policies in `align label --chat`")
        quiet_bars()
        partner = open_partner(run, stage, drawing, base)
        with closing(partner.policy.engine):
            if as_json:
                others = [] if beside is None else [open_beside(partner, beside, beside_stage)]
                talk_in_lines([partner, *others])
                return
            code = talk(partner, lambda: open_keeper(partner.recipe))
        raise typer.Exit(code)


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
    k: Annotated[int, typer.Option("--k", min=2, max=9, help="Responses per task.")] = 4,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    engine: Engine = "hf",
    engine_url: EngineUrl = None,
    num_processes: Processes = None,
    accelerate_config: AccelerateConfig = None,
) -> None:
    """Run one round as far as it goes without people, and say what they have to do next."""
    with reported():
        loaded = load(recipe, overrides)
        from rich.console import Console

        from align.loop.iterate import Goal
        from align.loop.iterate import iterate as run
        from align.loop.policy import Drawing, check_drawing

        drawing = Drawing(temperature, top_k, top_p, engine=engine, engine_url=engine_url)
        check_drawing(drawing)

        def train(stage: Stage, path: Path) -> None:
            run_stages([stage], path, None, False, num_processes, accelerate_config)

        quiet_bars()
        goal = Goal(rankings, demonstrations, k, drawing)
        run(loaded, str(recipe), goal, train, Console())
