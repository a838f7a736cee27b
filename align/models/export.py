"""What a finished stage leaves: a PEFT adapter, and heads beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from align.errors import UserError
from align.runtime.files import read_json, to_json, write_text

ADAPTER = "adapter_model.safetensors"
HEAD = "head.safetensors"
SCORE = "score.json"  # what is known of a reward model's scores; travels with its head


def save_adapter(model: PeftModel, adapter: str, folder: Path) -> None:
    """Write one adapter so that `peft.PeftModel.from_pretrained(base, folder)` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    save_file(
        {name: t.detach().contiguous().cpu() for name, t in tensors.items()},
        folder / ADAPTER,
        metadata={"format": "pt"},
    )
    config = model.peft_config[adapter]
    before = config.inference_mode, config.target_modules
    config.inference_mode = True
    if isinstance(config.target_modules, set):  # its order differs from process to process
        config.target_modules = sorted(config.target_modules)
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode, config.target_modules = before


def save_head(head: nn.Module, folder: Path) -> None:
    """Write a scalar head's weight [D], and its bias [] where it has one, beside its adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().contiguous().cpu() for name, t in head.state_dict().items()}
    save_file(tensors, folder / HEAD)


def save_score(known: Mapping[str, Any], folder: Path) -> None:
    """Write what is known of the scores: `std`, `temperature`, and what they were centred on."""
    write_text(folder / SCORE, to_json(dict(known)))


def read_spread(folder: Path) -> float:
    """The standard deviation of the reward model's scores; UserError where there is none to divide by."""
    path = folder / SCORE
    try:
        spread = float(read_json(path)["std"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} does not say how far scores spread ({error}): train rm again, or set "
            "`ppo.scale_scores: false`"
        ) from error
    if not 0 < spread < float("inf"):
        raise UserError(
            f"{path} says that scores have a standard deviation of {spread}, which nothing can be divided "
            "by: set `ppo.scale_scores: false`"
        )
    return spread
