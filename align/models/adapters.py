"""What a finished stage leaves: a PEFT adapter, and heads beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from peft import LoraConfig, PeftModel
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from align.errors import AlignError, UserError
from align.models.saved_modules import saved_parameters
from align.recipe.parts import Fraction, PositiveInt
from align.run.checkpoint import read_tensors
from align.run.files import read_json, to_json, write_text
from align.run.manifest import ADAPTER, HEAD

CONFIG = "adapter_config.json"
_MAGNITUDE = "lora_magnitude_vector"  # a row's length each, where an adapter is DoRA's
SCORE = "score.json"  # what is known of a reward model's scores; travels with its head


# As PEFT writes them; any other regular expression could be one that takes forever to match.
_Pattern = Annotated[str, StringConstraints(pattern=r"^\.\*\\\.\w+$")]


class _Said(BaseModel):
    """What stages write into an adapter's configuration; its other entries are PEFT's defaults."""

    model_config = ConfigDict(strict=True, extra="ignore")
    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None
    r: PositiveInt
    lora_alpha: PositiveInt
    lora_dropout: Fraction
    target_modules: list[str] | Literal["all-linear"]
    target_parameters: list[str] | None = None  # of experts, which are stacked in one parameter
    rank_pattern: dict[_Pattern, PositiveInt] = {}  # an expert's gate and up are one parameter
    alpha_pattern: dict[_Pattern, PositiveInt] = {}
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: list[str] | None = None
    ensure_weight_tying: bool = False  # of these modules
    layers_to_transform: list[int] | None
    fan_in_fan_out: bool
    inference_mode: bool
    init_lora_weights: bool  # by names that stand here PEFT changes the base, or reads files
    base_model_name_or_path: str | None
    revision: str | None
    peft_version: str | None = None


def parameters_of(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters, by their names without the adapter's.

    The name counts only where PEFT puts it: modules of the base may have the same (RWKV has a `value`).
    """
    own = re.compile(rf"(\.lora_\w+)\.{re.escape(adapter)}(?=\.)")
    found = {own.sub(r"\1", name): p for name, p in model.named_parameters() if own.search(name)}
    # PEFT's files have DoRA's vector without a name of its own.
    return {name.replace(f"{_MAGNITUDE}.weight", _MAGNITUDE): p for name, p in found.items()}


def save_adapter(model: PeftModel, adapter: str, folder: Path) -> None:
    """Write one adapter so that `peft.PeftModel.from_pretrained(base, folder)` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config[adapter]
    tensors = {name: t.detach().contiguous().cpu() for name, t in parameters_of(model, adapter).items()}
    # Copies, as a file holds no tensor twice, and tied ones are one.
    whole = saved_parameters(model.get_base_model(), config.modules_to_save or ())
    tensors |= {name: t.detach().cpu().clone() for name, t in whole.items()}
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
    before = config.inference_mode, config.target_modules, config.target_parameters
    config.inference_mode = True
    if isinstance(config.target_modules, set):  # its order differs from process to process
        config.target_modules = sorted(config.target_modules)
    if config.target_parameters is not None:
        config.target_parameters = sorted(config.target_parameters)
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode, config.target_modules, config.target_parameters = before


def read_config(folder: Path) -> LoraConfig:
    """The configuration that `save_adapter` wrote; AlignError where it asks PEFT for anything else.

    Some of what PEFT can be asked for imports modules or fetches files, and adapters come from strangers.
    """
    path = folder / CONFIG
    try:
        raw = read_json(path)
        said = _Said.model_validate(raw).model_dump()
        plain = LoraConfig().to_dict()
        # A field that this PEFT does not know is a newer one's; switched off, it changes nothing.
        asked = {key: raw[key] != plain[key] if key in plain else bool(raw[key]) for key in raw}
        if more := [key for key, is_asked in asked.items() if is_asked and key not in said]:
            raise ValueError(f"{more[0]} is {raw[more[0]]}, which align does not train or serve")
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
    adapter, _ = apart(tensors)
    wrong = [name for name, x in tensors.items() if name not in adapter and not _is_saved(config, name)]
    wrong += [name for name, x in adapter.items() if not _of_rank(config, name, x)]
    if wrong or not adapter:
        what = f"{wrong[0]}, which is no adapter of rank {config.r}" if wrong else "no tensors"
        raise AlignError(f"{folder / ADAPTER} holds {what}")
    return config, tensors


def apart(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of an adapter's file: the adapter's own, and those of modules that are saved whole."""
    own = {name: x for name, x in tensors.items() if ".lora_" in name}
    return own, {name: x for name, x in tensors.items() if name not in own}


def _is_saved(config: LoraConfig, name: str) -> bool:
    """Whether the tensor is one of a module that the configuration says is saved whole."""
    return any(name.rsplit(".", 1)[0].endswith(f".{path}") for path in config.modules_to_save or ())


def _of_rank(config: LoraConfig, name: str, x: Tensor) -> bool:
    """Whether a side of the matrix is the adapter's rank; of stacked experts, the ranks of all in one."""
    if name.endswith(f".{_MAGNITUDE}"):
        return config.use_dora and x.ndim == 1
    if config.r in x.shape:
        return True
    return bool(config.target_parameters) and any(side % config.r == 0 for side in x.shape)


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
