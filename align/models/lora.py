"""From the recipe's `lora` section to PEFT's configuration."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from align.errors import RecipeError
from align.models.saved_modules import saved_paths
from align.models.text_part import is_composite, text_decoder
from align.recipe.sections import Lora
from align.run.hub import first_line

_OUTPUT = ("lm_head", "embed_out")
_EXPERTS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")  # in the files of mixtures


def lora_config(lora: Lora, model: PreTrainedModel) -> LoraConfig:
    """PEFT's LoraConfig for this model, for its text part alone.

    Raises UserError where a target names no linear layer of the model, or the output layer, or one that
    PEFT cannot adapt, where the model has fewer layers than the recipe adapts, or where its experts allow
    no dropout.
    """
    layers = _upper_layers(lora, model)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        target_modules=lora.targets,
        bias="none",
    )
    linear = _linear_layers(model)
    _add_experts(config, model)
    everything = lora.targets == "all-linear"
    if isinstance(lora.targets, list):
        _check_targets(lora.targets, config, model, linear)
    elif not everything:
        config.target_modules = _matching(lora.targets, config, model, linear)
    if config.target_parameters and lora.use_dora:
        raise RecipeError(
            f"lora.use_dora: the base's experts ({', '.join(sorted(config.target_parameters))}) are stacked, "
            "and PEFT has no DoRA for them. Take use_dora out, or name lora.targets without them",
            "lora.use_dora",
        )
    named = linear if config.target_modules == "all-linear" else _ending(linear, config.target_modules)
    shared = _shared(model)
    refused = {_leaf(name) for name in named if name in shared or not _adaptable(config, model, name)}
    names = [name for name in named if _leaf(name) not in refused]
    if layers and not (config.target_parameters or any(_within(name, layers) for name in names)):
        raise RecipeError(
            f"lora.targets and lora.layers: {lora.targets} names no layer among the upper {lora.layers}, "
            "or none that can have an adapter. Raise lora.layers, or name other layers",
            "lora.targets",
        )
    if config.target_parameters and lora.dropout:
        raise RecipeError(
            f"lora.dropout: the base's experts ({', '.join(sorted(config.target_parameters))}) can have "
            "adapters, but no dropout before them. Set lora.dropout: 0, or name lora.targets without them",
            "lora.dropout",
        )
    if is_composite(model) or (config.target_parameters and layers):
        # Names alone would also mean the tower's layers; and PEFT has experts in all layers or in none.
        config.target_modules = {name for name in names if _within(name, layers)}
        config.target_parameters = _parameters(config.target_parameters, model, layers)
        return config
    if isinstance(lora.targets, str) and not everything:
        config.target_modules = {name for name in names if _within(name, layers)}
        return config
    if everything and (refused or layers):
        config.target_modules = {_leaf(name) for name in names}
    config.layers_to_transform = layers
    return config


def _upper_layers(lora: Lora, model: PreTrainedModel) -> list[int] | None:
    """The numbers of the layers that the recipe adapts, None for all.

    Raises UserError where it asks for more layers, or a higher rank, than the base has.
    """
    count = model.config.get_text_config().num_hidden_layers
    if lora.layers is not None and lora.layers > count:
        raise RecipeError(f"lora.layers is {lora.layers}, and the base has {count} layers", "lora.layers")
    if lora.rank > (width := model.config.get_text_config().hidden_size):
        raise RecipeError(
            f"lora.rank is {lora.rank}, and the base's layers are {width} wide: no update has a higher rank. "
            "Take a lower one, such as 16",
            "lora.rank",
        )
    return None if lora.layers is None else list(range(count - lora.layers, count))


def check_adapters(model: PreTrainedModel, lora: Lora) -> None:
    """Raise UserError where the base cannot have the adapters that the recipe describes.

    model: a copy of it without weights, on which they are laid.
    """
    config = lora_config(lora, model)
    saved_paths(lora.modules_to_save or (), model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modules that PEFT will tell again where it matters
            PeftModel(model, config, low_cpu_mem_usage=True)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise RecipeError(
            f"lora: PEFT cannot lay these adapters on {type(model).__name__}: {first_line(error)}. "
            "Name other layers in lora.targets",
            "lora",
        ) from error


def without_adapter(model: PeftModel) -> dict[str, int]:
    """What of the base's text layers has no adapter though the layer has some: a name and in how many layers.

    Linear layers and stacked experts count; the output layer, norms and embeddings do not.
    """
    base = model.get_base_model()
    prefix = _prefix(base)
    found: dict[str, set[str]] = {}
    adapted = [name for name, module in base.named_modules() if isinstance(module, LoraLayer)]
    layers = {_layer(name) for name in adapted}
    for name, module in base.named_modules():
        layer = _layer(name)
        if not name.startswith(prefix) or layer is None or layer not in layers:
            continue
        if any(name == one or name.startswith(f"{one}.") for one in adapted):
            continue
        stacked = any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
        if isinstance(module, (nn.Linear, Conv1D)) or (stacked and not isinstance(module, nn.Conv1d)):
            short = re.sub(r"^.*?\.\d+\.", "", name)
            found.setdefault(re.sub(r"\.\d+(?=\.|$)", ".*", short), set()).add(str(layer))
    return {name: len(where) for name, where in found.items()}


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the text part, the output layer left out, by their names in the model."""
    kinds, prefix, output = (nn.Linear, Conv1D, LoraLayer), _prefix(model), model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and name.startswith(prefix)
        and module is not output
        and _leaf(name) not in (*_OUTPUT, "lora_A", "lora_B")
        and ".lora_" not in name
    }


def _add_experts(config: LoraConfig, model: PreTrainedModel) -> None:
    """Let PEFT name the experts and routers, which transformers keeps as stacked parameters.

    It would do so by itself, but later, when it is unknown which layers are meant.
    """
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError as error:
        raise RecipeError(f"lora.targets: {first_line(error)}", "lora.targets") from error
    if not config.target_parameters:
        config.target_parameters = None


def _check_targets(
    targets: Iterable[str], config: LoraConfig, model: PreTrainedModel, linear: dict[str, nn.Module]
) -> None:
    """Raise UserError for a target that names nothing, the output layer, or what PEFT cannot adapt."""
    for target in targets:
        if _leaf(target) in _OUTPUT:
            raise RecipeError(
                f"lora.targets: the output layer ({target}) is shared by all roles and stays as it is",
                "lora.targets",
            )
        if config.target_parameters and not _ends(target, config.target_modules):
            continue  # the experts' name for it stands among the parameters
        named = _ending(linear, [target])
        if not named:
            names = sorted({_leaf(name) for name in linear})
            near = get_close_matches(_leaf(target), names, 1, 0.6)
            raise RecipeError(
                f"lora.targets: the base has no linear layer named {target}; "
                + (f"did you mean {near[0]}? " if near else "")
                + f"it has {', '.join(names)}{_told_experts(model)}",
                "lora.targets",
            )
        if shared := sorted(_shared(model).intersection(named)):
            raise RecipeError(
                f"lora.targets: {target} means {shared[0]}, whose matrix is another layer's too, and an "
                "export's matrix takes one adapter in: leave it out (all-linear does)",
                "lora.targets",
            )
        if not all(_adaptable(config, model, name) for name in named):
            raise RecipeError(
                f"lora.targets: an adapter on {target} would have no effect in {type(model).__name__}, or "
                "breaks it: leave it out (all-linear does)",
                "lora.targets",
            )


def _told_experts(model: PreTrainedModel) -> str:
    """By which names experts can be targets: those of their files, which PEFT translates."""
    config = LoraConfig(target_modules=[*_EXPERTS])
    convert_peft_config_for_transformers(config, model, None)
    names = [name for name in _EXPERTS if name not in (config.target_modules or ())]
    return f"; its experts are named {', '.join(names)}" if names else ""


def _matching(
    pattern: str, config: LoraConfig, model: PreTrainedModel, linear: dict[str, nn.Module]
) -> set[str]:
    """The paths of the linear layers that the pattern matches whole, as PEFT matches it.

    Raises UserError where these are none, or the output layer is one, or PEFT cannot adapt one.
    """
    if config.target_parameters:
        experts = ", ".join(sorted(config.target_parameters))
        raise RecipeError(
            f"lora.targets: the pattern {pattern} matches experts ({experts}), which are stacked: "
            "name them in a list, or match other layers",
            "lora.targets",
        )
    output = [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    if any(re.fullmatch(pattern, name) for name in output):
        raise RecipeError(
            f"lora.targets: the pattern {pattern} matches the output layer ({output[0]}), which is shared by "
            "all roles and stays as it is",
            "lora.targets",
        )
    found = {name for name in linear if re.fullmatch(pattern, name)}
    if not found:
        word = max(re.findall(r"\w+", pattern), key=len, default=pattern)
        near = get_close_matches(word, linear, 1, 0.0) + get_close_matches(word, map(_leaf, linear), 1, 0.6)
        example = next((name for name in linear if _leaf(name) == near[-1]), near[0])
        raise RecipeError(
            f"lora.targets: the pattern {pattern} matches no linear layer's whole path in this base, such as "
            f"{example}; the layers are called {', '.join(sorted({_leaf(name) for name in linear}))}",
            "lora.targets",
        )
    if shared := sorted(_shared(model) & found):
        raise RecipeError(
            f"lora.targets: the pattern {pattern} matches {shared[0]}, whose matrix is another layer's too, "
            "and an export's matrix takes one adapter in: match other layers",
            "lora.targets",
        )
    if refused := sorted(name for name in found if not _adaptable(config, model, name)):
        raise RecipeError(
            f"lora.targets: the pattern {pattern} matches {refused[0]}, and an adapter there would have no "
            f"effect in {type(model).__name__}, or breaks it",
            "lora.targets",
        )
    return found


def _adaptable(config: LoraConfig, model: PreTrainedModel, name: str) -> bool:
    """Whether an adapter on this layer works: the model calls it, and takes what a linear layer gives.

    Kernels of state-space models read some weights past the layer; some routers are linear layers whose
    forward gives several tensors.
    """
    try:
        _check_lora_target_modules_mamba(config, model, _leaf(name))
    except ValueError:
        return False
    parent: Any = type(model.get_submodule(name.rpartition(".")[0]))
    if _read_past(parent, _leaf(name)):
        return False
    kind = type(model.get_submodule(name))
    own = issubclass(kind, nn.Linear) and kind.forward is not nn.Linear.forward
    return not (own and kind.__module__.startswith("transformers.")) or _is_linear(kind)


@cache
def _read_past(parent: type[nn.Module], leaf: str) -> bool:
    """Whether a module takes a layer's weight itself, where it could have called the layer.

    Read in its source, as fast kernels do so only where they are installed. State spaces (A_log) also call
    such layers, in their slow way; elsewhere a layer that is called is fine (BLOOM's other way is never on).
    """
    try:
        source = inspect.getsource(parent)
    except (OSError, TypeError):
        return False
    past = re.search(rf"self\.{re.escape(leaf)}\.weight\b(?!\.(dtype|device|shape))", source)
    return bool(past) and ("A_log" in source or f"self.{leaf}(" not in source)


def _shared(model: PreTrainedModel) -> set[str]:
    """The modules whose matrix is also another's, as in Zamba 2's attention.

    Each could have an adapter of its own while it trains, but an export's matrix takes in one of them only.
    """
    tied: dict[str, str] = model.all_tied_weights_keys
    return {name.rpartition(".")[0] for name in (*tied, *tied.values())}


@torch.no_grad()
def _is_linear(kind: type[nn.Module]) -> bool:
    """Whether linear layers that have a forward of their own give x W^T + b all the same, as Falcon's do."""
    try:
        layer: Any = kind(3, 2)
        x = torch.tensor([[0.5, -1.0, 2.0]])
        found = layer(x)
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return False
    return isinstance(found, torch.Tensor) and torch.allclose(
        found, nn.functional.linear(x, layer.weight, layer.bias)
    )


def _parameters(
    names: Iterable[str] | None, model: PreTrainedModel, layers: list[int] | None
) -> list[str] | None:
    """The whole names of the parameters that end in these, in these layers."""
    if not names:
        return None
    prefix = _prefix(model)
    found = [
        name
        for name, _ in model.named_parameters()
        if name.startswith(prefix) and _within(name, layers) and _ends(name, names)
    ]
    return found or None


def _prefix(model: nn.Module) -> str:
    """What the names of the text part's modules begin with; nothing where the model is plain."""
    if not isinstance(model, PreTrainedModel) or not is_composite(model):
        return ""
    decoder = text_decoder(model)
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), "")


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _ends(name: str, targets: Iterable[str] | str | None) -> bool:
    """Whether the name is one of the targets, or ends in one, as PEFT matches them."""
    return any(name == target or name.endswith(f".{target}") for target in targets or ())


def _ending(names: Iterable[str], targets: Iterable[str] | str | None) -> list[str]:
    return [name for name in names if _ends(name, targets)]


def _within(name: str, layers: list[int] | None) -> bool:
    return layers is None or _layer(name) in layers


def _layer(name: str) -> int | None:
    """The number of the layer that a module belongs to, as PEFT reads it; None outside of layers."""
    found = re.match(r".*?\.[^.]*\.(\d+)\.", f".{name}")
    return int(found[1]) if found else None
