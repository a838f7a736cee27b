"""The decoder of the Llama family (Llama, Mistral, Qwen2, Qwen3) for frozen weights with adapters.

The same numbers as transformers' own forward pass, out of the same modules, with less work: the last
layer's queries, output and MLP only where a hidden state is read; adapters added in place; norms, rotary
embeddings and gated activations that keep their input alone for the backward pass; no mask, because
padding is on the right and the attention causal. docs/performance.md says what each is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from align.models.adapter_products import product_dtype
from align.models.gradient_checkpointing import checkpointed

_LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_KERNELS = ("sdpa", "flash_attention_2", "flash_attention_3")
_MLP = ("gate_proj", "up_proj", "down_proj")


def suits(decoder: nn.Module) -> bool:
    """Whether the decoder is one that `decode` knows; a probe has to show that the numbers agree."""
    config = getattr(decoder, "config", None)
    layers = getattr(decoder, "layers", None)
    if config is None or not isinstance(layers, nn.ModuleList):
        return False
    return (
        getattr(config, "_attn_implementation", "") in _KERNELS
        and getattr(config, "hidden_act", "") == "silu"
        and getattr(config, "sliding_window", None) is None
        and all(_kind(layer) in _LAYERS and _plain(layer) for layer in layers)
    )


def _kind(layer: nn.Module) -> str:
    """The name of the layer's class, which FSDP2 makes one of its own of."""
    return type(layer).__name__.removeprefix("FSDP" if isinstance(layer, FSDPModule) else "")


def decode(
    decoder: Any,
    role: str,
    hidden: Tensor,
    first: int,
    last: int | None = None,
    at: Tensor | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Hidden states [B, L, D] after the layers first:last of rows that are padded on the right.

    With `at` [B, T] and no `last`: the final hidden states [B, T, D], after the norm, at these positions.
    checkpointing: layers run again in the backward pass, and keep their input alone until then.
    """
    layers = decoder.layers[first:last]
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    cos, sin = decoder.rotary_emb(hidden, positions)
    run = partial(checkpointed, _layer) if checkpointing and torch.is_grad_enabled() else _layer
    for number, layer in enumerate(layers, 1):
        hidden = _whole(layer, run, role, hidden, cos, sin, at if number == len(layers) else None)
    return hidden if at is None else _norm(decoder.norm, hidden)


def take(x: Tensor, at: Tensor) -> Tensor:
    """The [B, T, D] of x [B, L, D] at positions [B, T]."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (rows + at).flatten()).view(*at.shape, x.shape[-1])


def _whole(layer: Any, run: Callable[..., Tensor], *args: Any) -> Tensor:
    """What `run` makes of the layer, in the place of its own forward where that alone finds weights whole.

    Hooks of a layer that FSDP2 shards put its weights together before its forward, and again before its
    backward pass.
    """
    if not isinstance(layer, FSDPModule):
        return run(layer, *args)
    sharded: Any = layer
    own = vars(sharded).get("forward")
    sharded.forward = partial(run, sharded)
    try:
        found: Tensor = sharded(*args)
    finally:
        if own is None:
            del sharded.forward
        else:
            sharded.forward = own
    return found


def _layer(layer: Any, role: str, hidden: Tensor, cos: Tensor, sin: Tensor, at: Tensor | None) -> Tensor:
    """One layer; with `at` [B, T] the result is [B, T, D], at these positions."""
    attention, mlp = layer.self_attn, layer.mlp
    x = _norm(layer.input_layernorm, hidden)
    if at is None:
        q, k, v = _linear(x, role, attention.q_proj, attention.k_proj, attention.v_proj)
        mask, rotation = None, (cos, sin)
    else:
        k, v = _linear(x, role, attention.k_proj, attention.v_proj)
        (q,) = _linear(take(x, at), role, attention.q_proj)
        mask = (torch.arange(x.shape[1], device=x.device) <= at[:, :, None])[:, None]
        rotation = (cos[0][at], sin[0][at])
        hidden = take(hidden, at)
    heads = [part.unflatten(-1, (-1, attention.head_dim)) for part in (q, k, v)]
    if hasattr(attention, "q_norm"):  # Qwen3
        heads[:2] = _norm(attention.q_norm, heads[0]), _norm(attention.k_norm, heads[1])
    query, key, value = (
        _Rotate.apply(heads[0], *rotation).transpose(1, 2),
        _Rotate.apply(heads[1], cos, sin).transpose(1, 2),
        heads[2].transpose(1, 2),
    )
    attended = _attended(attention, query, key, value, mask)
    (out,) = _linear(attended.flatten(2), role, attention.o_proj)
    hidden = out.add_(hidden)
    x = _norm(layer.post_attention_layernorm, hidden)
    gated = _Gate.apply(*_linear(x, role, mlp.gate_proj, mlp.up_proj))
    (out,) = _linear(gated, role, mlp.down_proj)
    return out.add_(hidden)


def _attended(attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """[B, L, H, d] from query [B, H, L, d], key and value [B, G, L, d]: causal, or by the mask [B, 1, L, K].

    Flash kernels take no mask, and need none here but where few positions are read: there sdpa attends.
    """
    kernel = attention.config._attn_implementation
    if mask is None and kernel != "sdpa":
        run = ALL_ATTENTION_FUNCTIONS[kernel]
        found: Tensor = run(attention, query, key, value, None, dropout=0.0, scaling=attention.scaling)[0]
        return found
    groups = query.shape[1] // key.shape[1]
    if mask is not None and groups > 1:
        # With a mask and fewer keys than queries only the slow kernel is left on a GPU.
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=attention.scaling,
        enable_gqa=groups > 1,
    ).transpose(1, 2)


def _norm(module: Any, x: Tensor) -> Tensor:
    found: Tensor = _RMSNorm.apply(x, module.weight, module.variance_epsilon)
    return found


def _linear(x: Tensor, role: str, *modules: nn.Module) -> tuple[Tensor, ...]:
    """What each module makes of x [..., D], with the role's adapter where it has one."""
    parts: list[Any] = []
    for module in modules:
        base: Any = module
        adapter: tuple[Any, ...] = (None, None, 0.0)
        if isinstance(module, LoraLayer):
            base = module.base_layer
            if role in module.lora_A:
                a, b = module.lora_A[role], module.lora_B[role]
                dtype = product_dtype(x, a.weight)
                adapter = (a.weight.to(dtype), b.weight.to(dtype), module.scaling[role])
        parts += [base.weight, base.bias, *adapter]
    found: tuple[Tensor, ...] = _Linear.apply(x, *parts)
    return found


def _plain(layer: nn.Module) -> bool:
    """Whether the layer's matrices are linear maps, with plain LoRA at most, and silence no activation."""
    for part, names in (("self_attn", _ATTENTION), ("mlp", _MLP)):
        for name in names:
            module = getattr(getattr(layer, part, None), name, None)
            if isinstance(module, LoraLayer):
                if module.lora_variant or module.fan_in_fan_out or any(module.lora_bias.values()):
                    return False
                module = module.base_layer
            if type(module) is not nn.Linear:
                return False
    return True


def _add_product(out: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """out += scale * a @ b, in place; adapters may have another precision than the base."""
    if out.dtype == a.dtype:
        return out.addmm_(a, b, alpha=scale)
    return out.add_(a @ b, alpha=scale)


class _Linear(torch.autograd.Function):
    """Several linear maps with frozen weights of one input, and what adapters add to them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Any) -> tuple[Tensor, ...]:
        flat, found, kept = x.reshape(-1, x.shape[-1]), [], []
        ctx.parts = [parts[i : i + 5] for i in range(0, len(parts), 5)]
        for weight, bias, a, b, scale in ctx.parts:
            out = F.linear(x, weight, bias)
            small = None
            if a is not None:
                small = flat.to(a.dtype) @ a.t()
                _add_product(out.view(-1, out.shape[-1]), small, b.t(), scale)
            kept.append(small)
            found.append(out)
        trained = any(ctx.needs_input_grad[3::5])
        ctx.save_for_backward(x if trained else None, *kept)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, *kept = ctx.saved_tensors
        of_x: Tensor | None = None
        of_parts: list[Any] = []
        for (weight, _, a, b, scale), small, gradient in zip(ctx.parts, kept, gradients, strict=True):
            flat = gradient.reshape(-1, gradient.shape[-1])
            of_a = of_b = None
            if ctx.needs_input_grad[0]:
                of_x = flat @ weight if of_x is None else of_x.addmm_(flat, weight)
            if a is not None:
                wide = flat.to(a.dtype)
                narrow = (wide @ b).mul_(scale)
                if of_x is not None:
                    _add_product(of_x, narrow, a)
                if a.requires_grad:
                    of_a = narrow.t() @ x.reshape(-1, x.shape[-1]).to(a.dtype)
                    of_b = (wide.t() @ small).mul_(scale)
            of_parts += [None, None, of_a, of_b, None]
        return None if of_x is None else of_x.view(*gradients[0].shape[:-1], of_x.shape[-1]), *of_parts


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight, the weight frozen; the mean in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        wide, of_normed = x.to(scale.dtype), (gradient * weight).to(scale.dtype)
        mean = (of_normed * wide).sum(-1, keepdim=True) * (scale**3 / x.shape[-1])
        return of_normed.mul_(scale).addcmul_(wide, mean, value=-1).to(x.dtype), None, None


class _Rotate(torch.autograd.Function):
    """Rotary embedding of x [B, L, H, d] by cos and sin [B or 1, L, d], whose halves are alike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    sin = sin.unsqueeze(2).chunk(2, -1)[0]
    out = x * cos.unsqueeze(2)
    (low, high), (from_low, from_high) = out.chunk(2, -1), x.chunk(2, -1)
    low.addcmul_(from_high, sin, value=-sign)
    high.addcmul_(from_low, sin, value=sign)
    return out


class _Gate(torch.autograd.Function):
    """silu(gate) * up; the activation is computed again in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return of_gate, F.silu(gate).mul_(gradient)
