"""The floating-point operations of a pass, counted from the model's matrices. Stages may use it for MFU.

A matrix costs a token 2 operations a weight, forward. Backward through a frozen matrix costs the same again
(the gradient of its input alone); through an adapter twice that (of its weights too). Attention costs, for
every token and every token that it sees, a product with a key and one with a value. What is element by
element (norms, activations, the optimizer) is not counted, nor what is computed a second time: activations
with gradient checkpointing, and scores within attention's backward pass. These are the operations of
the model, which MFU is defined on (PaLM, arXiv 2204.02311, appendix B); `again` counts the repeated ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from align.models.text_part import text_decoder

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k")


@dataclass(frozen=True)
class Work:
    """What one token takes part in, in multiplications with an addition: 2 operations each."""

    lower: int  # with the matrices of layers below the lowest adapter: they never run backward
    upper: int  # with those of the other layers
    adapter: int  # with one role's adapter
    lower_pair: int  # with each token that it sees, in the lower layers' attention
    upper_pair: int
    output: int  # with the output layer: width x vocabulary


def work_of(model: PreTrainedModel, adapter: str | None = None) -> Work:
    """Counts a base whose layers may have adapters, one of which runs; weights may be on the meta device.

    Of stacked experts those count that a token is sent to. Sliding windows are not looked at.
    """
    decoder = text_decoder(model)
    config = model.config.get_text_config()
    first = _lowest(decoder)
    sizes = {True: 0, False: 0}  # by whether the layer is below all adapters
    adapters = 0
    seen: set[int] = set()
    for name, module in decoder.named_modules():
        if ".lora_" in name or id(module) in seen:
            continue
        seen.add(id(module))
        if isinstance(module, LoraLayer) and adapter in getattr(module, "lora_A", ()):
            assert adapter is not None
            adapters += sum(
                p.numel() for part in (module.lora_A, module.lora_B) for p in part[adapter].parameters()
            )
        sizes[_layer(name) < first] += _weights(module, config)
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    width = int(getattr(config, "head_dim", 0) or (config.hidden_size // heads if heads else 0))
    pair = 2 * heads * width
    count = _attending(config)
    below = min(first, count)
    head = model.get_output_embeddings()
    output = 0 if head is None else int(head.weight.shape[-1]) * int(config.vocab_size)
    return Work(sizes[True], sizes[False], adapters, below * pair, (count - below) * pair, output)


def pass_flops(
    work: Work, tokens: int, pairs: int, read: int = 0, backward: bool = False, lower: bool = True
) -> int:
    """Operations of one role's pass over some rows.

    tokens: of all rows together. pairs: of a token and one that it sees, see `pairs_of`. read: tokens whose
    logits are taken. backward: gradients of the adapter too. lower: whether the layers below all adapters run
    as well, or have run already.
    """
    once = work.upper + work.adapter
    forward = once * tokens + work.upper_pair * pairs + work.output * read
    if lower:
        forward += work.lower * tokens + work.lower_pair * pairs
    if not backward:
        return 2 * forward
    behind = (work.upper + 2 * work.adapter) * tokens + 2 * work.upper_pair * pairs + work.output * read
    return 2 * (forward + behind)


def again(work: Work, tokens: int, pairs: int) -> int:
    """What gradient checkpointing computes a second time in a pass with its backward pass."""
    return 2 * ((work.upper + work.adapter) * tokens + work.upper_pair * pairs)


def pairs_of(lengths: Iterable[int]) -> int:
    """Pairs of a token and one that it sees, in rows of these lengths: n (n + 1) / 2 each."""
    return sum(n * (n + 1) // 2 for n in lengths)


def _weights(module: nn.Module, config: object) -> int:
    """Weights of this module's own matrices that a token is multiplied with."""
    if isinstance(module, nn.Linear):  # by its sizes: weights in four bits, or sharded, have other shapes
        return module.in_features * module.out_features
    if isinstance(module, Conv1D):
        return module.weight.numel()
    stacked = sum(p.numel() for p in module.parameters(recurse=False) if p.ndim == 3)
    if not stacked or isinstance(module, nn.Conv1d):
        return 0
    experts, chosen = _named(config, _EXPERTS), _named(config, _CHOSEN)
    return stacked * chosen // experts if experts and chosen else stacked


def _named(config: object, names: Iterable[str]) -> int:
    found = (getattr(config, name, None) for name in names)
    return next((int(value) for value in found if isinstance(value, int) and value), 0)


def _attending(config: object) -> int:
    """How many layers have attention over all tokens."""
    count = int(getattr(config, "num_hidden_layers", 0))
    kinds = getattr(config, "layer_types", None) or ()
    return sum("linear" not in kind and "mamba" not in kind for kind in kinds) if kinds else count


def _lowest(decoder: nn.Module) -> int:
    """The lowest layer with an adapter; 0 where there is no adapter."""
    found = [_layer(name) for name, module in decoder.named_modules() if isinstance(module, LoraLayer)]
    return min(found, default=0)


def _layer(name: str) -> int:
    """The number of the layer that a module belongs to; above all of them outside of layers."""
    found = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(found[1]) if found else 10**9
