"""What a finished stage leaves: a PEFT adapter, and heads beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from align.errors import AlignError, UserError
from align.recipe.parts import Fraction, PositiveInt
from align.run.checkpoint import read_tensors
from align.run.files import read_json, to_json, write_text
from align.run.manifest import ADAPTER, HEAD

CONFIG = "adapter_config.json"
SCORE = "score.json"  # what is known of a reward model's scores; travels with its head


class _Said(BaseModel):
    """What stages write into an adapter's configuration; its other entries are PEFT's defaults."""

    model_config = ConfigDict(strict=True, extra="ignore")
    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None
    r: PositiveInt
    lora_alpha: PositiveInt
    lora_dropout: Fraction
    target_modules: list[str] | Literal["all-linear"]
    layers_to_transform: list[int] | None
    fan_in_fan_out: bool
    inference_mode: bool
    init_lora_weights: bool  # by names that stand here PEFT changes the base, or reads files
    base_model_name_or_path: str | None
    revision: str | None
    peft_version: str | None = None


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


def read_config(folder: Path) -> LoraConfig:
    """The configuration that `save_adapter` wrote; AlignError where it asks PEFT for anything else.

    Some of what PEFT can be asked for imports modules or fetches files, and adapters come from strangers.
    """
    path = folder / CONFIG
    try:
        raw = read_json(path)
        said = _Said.model_validate(raw).model_dump()
        plain = LoraConfig().to_dict()
        if more := [key for key in raw if key in plain and key not in said and raw[key] != plain[key]]:
            raise ValueError(f"{more[0]} is {raw[more[0]]}")
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise AlignError(f"{path} is not that of an adapter that a stage wrote: {why}") from error
    except (OSError, ValueError) as error:
        raise AlignError(f"{path} is not that of an adapter that a stage wrote: {error}") from error
    return LoraConfig(**said)


def read_adapter(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Configuration and tensors that `save_adapter` wrote; AlignError where they are not an adapter's.

    A tensor by the name of one of the base's weights would take its place.
    """
    config, tensors = read_config(folder), read_tensors(folder / ADAPTER)
    wrong = [name for name, x in tensors.items() if ".lora_" not in name or config.r not in x.shape]
    if wrong or not tensors:
        what = f"{wrong[0]}, which is no adapter of rank {config.r}" if wrong else "no tensors"
        raise AlignError(f"{folder / ADAPTER} holds {what}")
    return config, tensors


def save_head(head: nn.Module, folder: Path) -> None:
    """Write a scalar head's weight [D], and its bias [] where it has one, beside its adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().contiguous().cpu() for name, t in head.state_dict().items()}
    save_file(tensors, folder / HEAD)


def save_score(known: Mapping[str, Any], folder: Path) -> None:
    """Write what is known of the scores: `std`, `temperature`, and what they were centred on."""
    write_text(folder / SCORE, to_json(dict(known)))


def read_score_std(folder: Path) -> float:
    """The standard deviation of the reward model's scores; UserError where there is none to divide by."""
    path = folder / SCORE
    try:
        score_std = float(read_json(path)["std"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} does not give the standard deviation of scores ({error}): train rm again, or set "
            "`ppo.scale_scores: false`"
        ) from error
    if not 0 < score_std < float("inf"):
        raise UserError(
            f"{path} says that scores have a standard deviation of {score_std}, by which they cannot be "
            "divided: set `ppo.scale_scores: false`"
        )
    return score_std
