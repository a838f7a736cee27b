"""Embeddings and output layer that sft trains whole (`lora.modules_to_save`), for tokens added to a base.

Only sft trains them. The roles of later stages share them as sft left them, in the place of the base's own:
the base still lies in memory once, and what is below all adapters is the same for all roles. An adapter's
folder carries them by PEFT's names, so that plain PEFT reads them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.errors import AlignError, RecipeError
from align.models.text_part import text_decoder
from align.run.checkpoint import load_into

_PEFT = "base_model.model."  # what PEFT writes before a module's path


def saved_paths(names: Iterable[str], model: PreTrainedModel) -> list[str]:
    """The paths of the modules that these names, or ends of paths, mean: embeddings, output layer or both.

    Where the base ties the two, one means both. Raises UserError for a name of anything else.
    """
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    paths = [path for path, module in model.named_modules() if any(module is one for one in modules)]
    found = []
    for name in names:
        meant = [path for path in paths if path == name or path.endswith(f".{name}")]
        if not meant:
            own = [path.rsplit(".", 1)[-1] for path in paths]
            near = get_close_matches(name, own, 1, 0.5) or own
            raise RecipeError(
                f"lora.modules_to_save: {name} is neither the embeddings nor the output layer of this base, "
                f"which are {' and '.join(paths)}: write {', '.join(near)}",
                "lora.modules_to_save",
            )
        found += meant
    return paths if found and is_tied(model) else [path for path in paths if path in found]


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output layer's matrix is the table of embeddings."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def saved_parameters(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of these modules of the base, by their names in an adapter's file."""
    return {
        f"{_PEFT}{path}.{name}": parameter
        for path in paths
        for name, parameter in model.get_submodule(path).named_parameters()
    }


def take_over(
    model: PreTrainedModel, paths: Iterable[str], tensors: Mapping[str, Tensor], where: Path
) -> None:
    """Put an adapter's embeddings and output layer in the place of the base's own.

    Raises AlignError where they are not those of this base.
    """
    paths = list(paths)
    if saved_paths(paths, model) != paths:
        raise AlignError(f"{where} does not fit this base: it holds {', '.join(paths)}")
    load_into(saved_parameters(model, paths), tensors, str(where))
    if not same(model, paths, tensors):
        raise AlignError(f"{where} does not fit this base, whose output layer is its table of embeddings")


def same(model: nn.Module, paths: Iterable[str], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the base holds these tensors already, in its own precision."""
    own = saved_parameters(model, paths)
    return own.keys() == tensors.keys() and all(
        torch.equal(parameter, tensors[name].to(parameter)) for name, parameter in own.items()
    )


def mark(model: PeftModel, adapter: str, paths: list[str]) -> None:
    """Let an adapter's configuration say that its file carries these modules.

    Said before the adapter is laid, PEFT would lay copies of them beside the base's own.
    """
    if paths:
        config = model.peft_config[adapter]
        config.modules_to_save = paths
        config.ensure_weight_tying = is_tied(model.get_base_model())


def let_train(model: PeftModel, adapter: str, paths: list[str]) -> None:
    """Let these modules train beside an adapter, in float32 whatever the base's precision is.

    In bfloat16 a small step would be lost in rounding.
    """
    base: Any = model.get_base_model()
    embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
    precision = base.dtype
    for path in paths:
        module = base.get_submodule(path).float()
        module.requires_grad_(True)
    if embeddings.weight.dtype != precision:
        embeddings.register_forward_hook(lambda module, given, result: result.to(precision))
    if head.weight.dtype != precision:

        def widen(module: nn.Module, given: Any, result: Any) -> Any:
            result.last_hidden_state = result.last_hidden_state.to(head.weight.dtype)
            return result

        text_decoder(base).register_forward_hook(widen)
    mark(model, adapter, paths)
