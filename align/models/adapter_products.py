"""In which precision adapters multiply: bfloat16 where what they read is bfloat16, else their own.

Adapters and their optimizer stay float32, so that small steps count; a product's weights are rounded for the
product alone. PEFT would have every adapter read a float32 copy of its input, and multiply in float32.
"""

from __future__ import annotations

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from torch.nn import functional as F


def product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The precision of x times an adapter's weight. float16 is none of it: its sums overflow."""
    return x.dtype if x.dtype == torch.bfloat16 else weight.dtype


def multiply_in_input_dtype(model: nn.Module) -> None:
    """Let PEFT's linear adapters in the model multiply in `product_dtype`; may be called again for new ones.

    DoRA's stay as they are (its lengths of rows come out of such products), as do those of embeddings,
    convolutions and stacked experts.
    """
    for layer in model.modules():
        if not isinstance(layer, LoraLayer) or isinstance(layer, ParamWrapper) or layer.lora_variant:
            continue
        parts = [*layer.lora_A.values(), *layer.lora_B.values()]
        if parts and all(type(part) in (nn.Linear, _Part) for part in parts):
            layer.cast_input_dtype_enabled = False  # PEFT's own switch: the input comes as it is
            for part in parts:
                part.__class__ = _Part


class _Part(nn.Linear):
    """A or B of an adapter. A class of its own, as names and files of the parameters must stay PEFT's."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = product_dtype(x, self.weight)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(x.to(dtype), self.weight.to(dtype), bias)
