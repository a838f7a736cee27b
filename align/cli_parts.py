"""What commands share: options, the labeling app, and libraries kept quiet."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from align.errors import UserError

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


def labeling_app() -> ModuleType:
    """The app, which needs libraries of its own."""
    try:
        return importlib.import_module("labeling.serve")
    except ModuleNotFoundError as error:
        raise UserError(
            f"align label needs {error.name}, which is not installed. "
            "What to do: pip install 'align-rlhf[labeling]'"
        ) from error


def quiet_bars() -> None:
    """No bar for loading weights, which takes a second; downloads keep theirs."""
    if "transformers" in sys.modules:
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
        from transformers.utils import logging

        if not are_progress_bars_disabled():
            logging.disable_progress_bar()
            enable_progress_bars()
