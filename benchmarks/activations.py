"""What waits for a backward pass, with and without gradient checkpointing, counted without weights.

    python benchmarks/activations.py [--shape 1b 8b 70b] [--tokens 2048] [--dtype bfloat16] [--real]

Llama's shapes as torch's fake tensors: every operation of a forward pass is carried out but for its numbers,
and torch's saved_tensors_hooks sees what autograd keeps. Each storage counts once, weights not at all.
Adapters of rank 16 on all linear layers, one row. `kept` is what all layers keep; with checkpointing that
is their inputs, and `one layer` comes on top, when backward has reached a layer and it runs again. What is
needed within an operation and free again after it is not counted.

--real: with numbers, for a shape that this machine has room for; it has to give the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from transformers import LlamaConfig, LlamaForCausalLM

from align.models import fused_llama
from align.models.adapter_products import multiply_in_input_dtype
from align.models.gradient_checkpointing import layers_checkpointed

SHAPES = {  # width, MLP, layers, heads, heads of keys and values
    "135m": (576, 1536, 30, 9, 3),
    "1b": (2048, 8192, 16, 32, 8),
    "8b": (4096, 14336, 32, 32, 8),
    "70b": (8192, 28672, 80, 64, 8),
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Pass = Callable[[Any, Tensor, bool], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["1b", "8b", "70b"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with nullcontext() if arguments.real else FakeTensorMode():
        table(arguments.shape, arguments.tokens, getattr(torch, arguments.dtype))


def table(shapes: list[str], tokens: int, dtype: torch.dtype) -> None:
    """A line for each shape and way through it."""
    print("| shape | passes | kept, KiB a token | with checkpointing | one layer | together | share |")
    print("|---|---|---|---|---|---|---|")
    for name in shapes:
        whole, layer = (decoder(name, layers, dtype) for layers in (None, 1))
        for passes, run in (("lean", lean), ("packed rankings", packed)):
            kept, again = (saved(run, whole, tokens, on) for on in (False, True))
            one = (kept - saved(run, layer, tokens, False)) // (len(whole.layers) - 1)
            together = again + one
            shown = " | ".join(f"{size / 1024 / tokens:,.0f}" for size in (kept, again, one, together))
            print(f"| {name} | {passes} | {shown} | {together / kept:.2f} |")


def decoder(name: str, layers: int | None, dtype: torch.dtype) -> Any:
    """The shape's decoder, frozen, with an adapter "policy"."""
    width, mlp, count, heads, groups = SHAPES[name]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers or count,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=1000,
        max_position_embeddings=131072,
    )
    with torch.device("meta"), unset_fake_temporarily():  # PEFT could not cast fake tensors
        model = LlamaForCausalLM(config).to(dtype)
        adapted: Any = get_peft_model(model, LoraConfig(r=16, target_modules=LINEAR), adapter_name="policy")
    multiply_in_input_dtype(adapted)
    for module in adapted.modules():
        for key, x in module._parameters.items():
            if x is not None:
                empty = torch.zeros(x.shape, dtype=x.dtype)
                module._parameters[key] = torch.nn.Parameter(empty, requires_grad=x.requires_grad)
        for key, x in module._buffers.items():
            module._buffers[key] = None if x is None else torch.zeros(x.shape, dtype=x.dtype)
    return adapted.eval().get_base_model().model


def lean(model: Any, hidden: Tensor, checkpointing: bool) -> Tensor:
    """align/models/fused_llama.py; a response is half of the row."""
    response = torch.arange(hidden.shape[1] // 2, hidden.shape[1])[None]
    return fused_llama.decode(model, "policy", hidden, 0, at=response, checkpointing=checkpointing)


def packed(model: Any, hidden: Tensor, checkpointing: bool) -> Tensor:
    """transformers' own layers, with PEFT's around their matrices, and a mask as packed rankings have it."""
    mask = torch.zeros(1, 1, hidden.shape[1], hidden.shape[1], dtype=hidden.dtype)
    with layers_checkpointed(model.layers if checkpointing else []):
        output: Tensor = model(inputs_embeds=hidden, attention_mask=mask, use_cache=False).last_hidden_state
    return output


def saved(run: Pass, model: Any, tokens: int, checkpointing: bool) -> int:
    """Bytes that wait for the backward pass of one row."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}  # which also keeps a storage from being another's

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in weights:
            kept[x.untyped_storage()._cdata] = x
        return x

    weight = next(model.parameters())
    hidden = torch.zeros(1, tokens, model.config.hidden_size, dtype=weight.dtype, device=weight.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        assert run(model, hidden, checkpointing).requires_grad
    return sum(x.untyped_storage().nbytes() for x in kept.values())


if __name__ == "__main__":
    main()
