"""From the recipe's `lora` section to PEFT's configuration."""

from __future__ import annotations

from peft import LoraConfig, TaskType
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from align.errors import UserError
from align.recipe.sections import Lora


def lora_config(lora: Lora, model: PreTrainedModel) -> LoraConfig:
    """PEFT's LoraConfig for this model.

    Raises UserError where a target names no linear layer of the model, or the output layer, or where
    the model has fewer layers than the recipe adapts.
    """
    count = model.config.num_hidden_layers
    if lora.layers is not None and lora.layers > count:
        raise UserError(f"lora.layers is {lora.layers}, and the base has {count} layers")
    if lora.targets != "all-linear":
        linear = (nn.Linear, Conv1D, LoraLayer)
        names = {
            name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, linear)
        }
        names -= {"lm_head", "embed_out", "lora_A", "lora_B"}
        for target in lora.targets:
            if target in ("lm_head", "embed_out"):
                raise UserError(
                    f"lora.targets: the output layer ({target}) is shared by all roles and stays as it is"
                )
            if target not in names:
                raise UserError(
                    f"lora.targets: the base has no linear layer named {target}; "
                    f"it has {', '.join(sorted(names))}"
                )
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        layers_to_transform=None if lora.layers is None else list(range(count - lora.layers, count)),
        bias="none",
    )
