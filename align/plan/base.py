"""A base as its config.json describes it: its weights by part, and models of any depth without weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from align.errors import UserError
from align.models.experts import stacked_experts
from align.models.gradient_checkpointing import layers_of
from align.models.suitable import built
from align.models.text_part import text_decoder
from align.recipe.sections import Base as BaseSpec
from align.run.hub import first_line, refused

# Bytes of a weight in four bits: half a byte, one for each block of 64, and 4 for 256 of these (2305.14314).
FOUR_BITS = 1 / 2 + 1 / 64 + 4 / (64 * 256)
_DEPTH = 2  # layers of the smaller of the two models that are counted, where all layers are alike
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, ImportError, ArithmeticError)
_PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")


@dataclass(frozen=True)
class Weights:
    """Bytes of the base's weights; `layers` can be sharded. `largest` is a layer.

    matrix: one of those in four bits, whole. experts: stacked ones, which have no four bits.
    """

    layers: int
    rest: int  # embeddings, output layer, last norm
    largest: int
    matrix: int
    experts: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.rest


@dataclass(frozen=True)
class PlannedBase:
    """A base of which nothing but the configuration has to be there."""

    spec: BaseSpec
    config: PreTrainedConfig

    def model(self, dtype: torch.dtype, layers: int | None = None) -> PreTrainedModel:
        """The model on the meta device; with `layers`, one that has only so many. UserError as `skeleton`."""
        config = copy.deepcopy(self.config)
        if layers is not None:
            text = config.get_text_config()
            text.num_hidden_layers = layers
            for name in _PER_LAYER:
                if value := vars(text).get(name):  # Mamba's is a property, which follows by itself
                    setattr(text, name, value[:layers])
        # Kernels of other packages keep what sdpa's keep, and cannot run here.
        attention = self.spec.attention if self.spec.attention in ("sdpa", "eager") else None
        more: dict[str, Any] = {"attn_implementation": attention} if attention else {}
        name, trusted = f"base {self.spec.name}", self.spec.trust_remote_code
        return built(name, config, trusted, dtype=dtype, **more).requires_grad_(False)

    @property
    def layers(self) -> int:
        """How many the base has."""
        return int(self.config.get_text_config().num_hidden_layers)

    @property
    def positions(self) -> int | None:
        """How many tokens the base reads at most; None where its configuration does not say."""
        found = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    @property
    def attends(self) -> bool:
        """Whether all layers are attention; behind others rankings cannot share a prompt."""
        config = self.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
        heads = getattr(config, "num_attention_heads", None)
        return bool(heads) and all("attention" in kind and "linear" not in kind for kind in kinds)

    @cached_property
    def uniform(self) -> bool:
        """Whether all layers have the same parameters, so that a few of them stand for all."""
        found = layers_of(text_decoder(self.model(torch.float32)))
        kinds = {tuple((name, tuple(p.shape)) for name, p in layer.named_parameters()) for layer in found}
        return len(kinds) == 1

    def depths(self, adapted: int | None) -> list[tuple[int, int]]:
        """Models to count, as (layers, adapted ones); from two, those of any other depth follow.

        adapted: the recipe's lora.layers. Layers below all adapters keep nothing, so one stands for them.
        """
        upper = min(adapted or self.layers, self.layers)
        if not self.uniform or upper <= 2 * _DEPTH:
            return [(self.layers, upper)]
        lower = int(self.layers > upper)
        return [(lower + count, count) for count in (_DEPTH, 2 * _DEPTH)]

    def weights(self, dtype: torch.dtype) -> Weights:
        """What lies in memory once it is loaded."""
        model = self.model(dtype)
        head = model.get_output_embeddings()

        def size(module: nn.Module) -> float:
            matrices = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear) and m is not head}
            four = matrices if self.spec.quantize else set()
            return sum(
                p.numel() * (FOUR_BITS if id(p) in four else p.element_size()) for p in module.parameters()
            )

        sizes = [size(layer) for layer in layers_of(text_decoder(model))]
        linear = (m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
        total, layers = size(model), sum(sizes)
        return Weights(
            round(layers),
            round(total - layers),
            round(max(sizes, default=0)),
            max(linear, default=0) * dtype.itemsize,
            sum(p.nbytes for p in stacked_experts(model)),
        )


def plan_base(spec: BaseSpec) -> PlannedBase:
    """The base that a recipe names; of one on the hub, config.json is fetched where it is not there yet.

    Raises UserError where there is no configuration, or where it is not one of a language model.
    """
    folder = Path(spec.name).expanduser()
    if folder.is_absolute() and not (folder / "config.json").is_file():
        raise UserError(f"base {spec.name}: there is no config.json, which is what a plan reads of a base")
    try:
        config = AutoConfig.from_pretrained(
            str(folder) if folder.is_dir() else spec.name,
            revision=spec.revision,
            trust_remote_code=spec.trust_remote_code,
        )
    except (*_UNREADABLE, StrictDataclassError) as error:
        if "trust_remote_code" in str(error) and not spec.trust_remote_code:
            raise UserError(
                f"base {spec.name} comes with code of its own: set base.trust_remote_code: true to run it"
            ) from error
        said = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else first_line(error)
        raise UserError(f"base {spec.name}: its config.json cannot be read: {said}") from error
    except OSError as error:
        if (folder / "config.json").is_file():  # transformers' word for JSON that is broken
            raise UserError(f"base {spec.name}: its config.json is no JSON: copy it again") from error
        raise refused(error, f"base {spec.name}", "neither a folder nor in the hub's cache") from error
    return PlannedBase(spec, config)


def precision(spec: BaseSpec, device: Literal["cpu", "gpu"]) -> torch.dtype:
    """What the base's weights are loaded as there."""
    if spec.dtype == "auto":
        return torch.bfloat16 if device == "gpu" else torch.float32
    return torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32
