"""The decoder of the Llama family, read token after token: one role's weights, few kernels, a cache in place.

Keys and values lie in buffers that are made once a batch, each row from column 0 on, so that no token copies
them and a prompt needs no mask. Matrices that read the same input lie side by side; an adapter is folded into
a copy of its matrix, or added to its product. Nothing here is trained: weights are as they were when the
decoder was made, and gone with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import functional as F

from align.models import fused_llama
from align.models.adapter_products import product_dtype
from align.processes.determinism import distinct

_PROMPT_TOKENS = 2**15  # of prompts that are read at a time, padding included, so that their states fit
_MOVING = ("dynamic", "longrope")  # rotary frequencies that depend on how long a row has become


def suits(decoder: Any) -> bool:
    """Whether the decoder is one that is read so; a probe has to show that the numbers agree."""
    rotary = getattr(decoder, "rotary_emb", None)
    return fused_llama.suits(decoder) and getattr(rotary, "rope_type", "dynamic") not in _MOVING


@dataclass(frozen=True)
class Matrix:
    """Linear maps that read the same input, their results side by side, with what adapters add to them.

    parts: weights [out, in] and biases [out]. a [rank, in] and b [rank, all out]: the adapters of all parts,
    b scaled, and 0 where a part is not an adapter's; None where there is none, or where it is folded in.
    """

    parts: list[tuple[Tensor, Tensor | None]]
    a: Tensor | None
    b: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """[N, all out] of x [N, in]."""
        found = [F.linear(x, weight, bias) for weight, bias in self.parts]
        return self._adapt_(found[0] if len(found) == 1 else torch.cat(found, -1), x)

    def add_to_(self, hidden: Tensor, x: Tensor) -> Tensor:
        """hidden [N, out] + what the one part makes of x [N, in], in place."""
        ((weight, bias),) = self.parts
        hidden.addmm_(x, weight.t())
        return self._adapt_(hidden if bias is None else hidden.add_(bias), x)

    def _adapt_(self, out: Tensor, x: Tensor) -> Tensor:
        if self.a is None or self.b is None:
            return out
        if out.dtype == self.a.dtype:
            return out.addmm_(x @ self.a.t(), self.b)
        return out.add_((x.to(self.a.dtype) @ self.a.t()) @ self.b)


@dataclass(frozen=True)
class Layer:
    """A decoder layer's weights, as `LeanDecoder` reads them."""

    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    norms: tuple[Any, Any]  # before attention, before the MLP
    head_norms: tuple[Any, Any] | None  # of queries and keys (Qwen3)
    heads: tuple[int, int]  # of queries, and of keys or values
    width: int  # of a head
    scale: float


Attend = Callable[[Layer, Tensor, Tensor, Tensor], Tensor]  # of query, key and value [N, heads, d]: [N, D]


class LeanDecoder:
    """A role's decoder. merge: whether the role's adapter is folded into copies of the matrices it adapts;
    then the matrices that read the same input are one, in a copy too.

    Merging rounds: in half precision the sum of weight and adapter is what rounding leaves of it.
    """

    def __init__(self, decoder: Any, adapter: str, merge: bool) -> None:
        self._embed, self._norm, self._rotary = decoder.embed_tokens, decoder.norm, decoder.rotary_emb
        self.layers = [_layer(layer, adapter, merge) for layer in decoder.layers]
        self.device: torch.device = self._embed.weight.device

    @torch.no_grad()
    def prompts(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last hidden states [B, D] of rows ids [B, L] of these lengths, padded behind, and their cache:
        keys and values by turns, a pair for each layer, each [B, L, heads, d]."""
        size = max(1, _PROMPT_TOKENS // ids.shape[1])
        pieces = [self._prompts(*part) for part in zip(ids.split(size), lengths.split(size), strict=True)]
        hidden = torch.cat([hidden for hidden, _ in pieces])
        return hidden, [torch.cat(parts) for parts in zip(*(kept for _, kept in pieces), strict=True)]

    def _prompts(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows, width = ids.shape
        cos, sin = self.rotation(width)
        cos, sin = cos.repeat(rows, 1, 1), sin.repeat(rows, 1, 1)
        cache: list[Tensor] = []

        def attend(layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            query, key, value = (x.unflatten(0, (rows, width)) for x in (query, key, value))
            cache.extend((key, value))
            attended = F.scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                is_causal=True,
                scale=layer.scale,
                enable_gqa=layer.heads[0] > layer.heads[1],
            )
            return attended.transpose(1, 2).flatten(2).flatten(0, 1)

        hidden = self._run(self._embed(ids).flatten(0, 1), cos, sin, attend)
        last = torch.arange(rows, device=ids.device) * width + lengths - 1
        return _normed(self._norm, hidden[last]), cache

    @torch.no_grad()
    def step(
        self, ids: Tensor, lengths: Tensor, cache: list[Tensor], width: int, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The last hidden states [B, D] of the tokens ids [B] that follow rows of these lengths [B].

        cache: as `prompts` gives it, with room behind, where the tokens' keys and values are written. width:
        how many of its columns are read, more than any length. rotation: of as many positions. From one step
        to the next numbers in tensors alone change, no address and no shape, so a CUDA graph can hold it.
        """
        rows, room = cache[0].shape[:2]
        places = torch.arange(rows, device=ids.device) * room + lengths
        later = torch.arange(width, device=ids.device) > lengths[:, None]
        mask = cache[0].new_zeros(later.shape).masked_fill_(later, float("-inf"))[:, None, None]
        buffers = iter(cache)

        def attend(layer: Layer, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = next(buffers), next(buffers)
            written = ((keys.flatten(0, 1), key), (values.flatten(0, 1), value))
            with distinct():  # each row writes into a place of its own
                for cached, new in written:
                    cached.index_copy_(0, places, new)
            # Heads that share keys are rows of one query: with a mask, a GPU's fast kernels know no groups.
            attended = F.scaled_dot_product_attention(
                query.unflatten(1, (layer.heads[1], -1)),
                keys[:, :width].transpose(1, 2),
                values[:, :width].transpose(1, 2),
                attn_mask=mask,
                scale=layer.scale,
            )
            return attended.flatten(1)

        cos, sin = (part.index_select(0, lengths) for part in rotation)
        return _normed(self._norm, self._run(self._embed(ids), cos, sin, attend))

    def rotation(self, positions: int) -> tuple[Tensor, Tensor]:
        """The rotary embedding's cosines [positions, 1, d] and sines [positions, 1, d / 2]."""
        cos, sin = self._rotary(self._embed.weight, torch.arange(positions, device=self.device)[None])
        return cos[0, :, None], sin[0, :, None].chunk(2, -1)[0].contiguous()

    def _run(self, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """All layers over tokens [N, D], which are overwritten; cos and sin are those of each token."""
        for layer in self.layers:
            queries, keys = layer.heads
            heads = layer.qkv(_normed(layer.norms[0], hidden)).unflatten(-1, (-1, layer.width))
            turned = heads[:, : queries + keys]
            if layer.head_norms:
                parts = zip(layer.head_norms, turned.split([queries, keys], 1), strict=True)
                turned = torch.cat([_normed(norm, part) for norm, part in parts], 1)
            turned = _turned(turned, cos, sin)
            attended = attend(layer, turned[:, :queries], turned[:, queries:], heads[:, queries + keys :])
            hidden = layer.out.add_to_(hidden, attended)
            gate, up = layer.gate_up(_normed(layer.norms[1], hidden)).chunk(2, -1)
            hidden = layer.down.add_to_(hidden, F.silu(gate).mul_(up))
        return hidden


def copied_bytes(decoder: Any) -> int:
    """How much memory a merged decoder of this one takes."""
    parts = [module for name, module in decoder.layers.named_modules() if name.endswith("_proj")]
    bases = [module.base_layer if isinstance(module, LoraLayer) else module for module in parts]
    return sum(base.weight.numel() * base.weight.element_size() for base in bases)


def _layer(layer: Any, adapter: str, merge: bool) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    normed = hasattr(attention, "q_norm")
    width = int(attention.head_dim)
    sizes = [_base(part).weight.shape[0] // width for part in (attention.q_proj, attention.k_proj)]
    return Layer(
        qkv=_matrix(adapter, merge, attention.q_proj, attention.k_proj, attention.v_proj),
        out=_matrix(adapter, merge, attention.o_proj),
        gate_up=_matrix(adapter, merge, mlp.gate_proj, mlp.up_proj),
        down=_matrix(adapter, merge, mlp.down_proj),
        norms=(layer.input_layernorm, layer.post_attention_layernorm),
        head_norms=(attention.q_norm, attention.k_norm) if normed else None,
        heads=(sizes[0], sizes[1]),
        width=width,
        scale=float(attention.scaling),
    )


def _base(module: Any) -> Any:
    return module.base_layer if isinstance(module, LoraLayer) else module


@torch.no_grad()
def _matrix(adapter: str, merge: bool, *modules: Any) -> Matrix:
    parts = [(_base(module).weight.detach(), _base(module).bias) for module in modules]
    adapted = [
        (i, module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.scaling[adapter])
        for i, module in enumerate(modules)
        if isinstance(module, LoraLayer) and adapter in module.lora_A
    ]
    if merge:
        for i, a, b, scale in adapted:
            weight, bias = parts[i]
            wide = torch.promote_types(weight.dtype, torch.float32)
            whole = weight.to(wide).addmm(b.to(wide), a.to(wide), alpha=scale)
            parts[i] = (whole.to(weight.dtype), bias)
        return Matrix(_joined(parts), None, None)
    if not adapted:
        return Matrix(parts, None, None)
    ends = list(accumulate((len(weight) for weight, _ in parts), initial=0))
    ranks = list(accumulate((len(a) for _, a, _, _ in adapted), initial=0))
    b_all = adapted[0][2].new_zeros(ranks[-1], ends[-1])
    for (i, _, b, scale), rank in zip(adapted, ranks, strict=False):
        b_all[rank : rank + b.shape[1], ends[i] : ends[i + 1]] = scale * b.t()
    kind = product_dtype(parts[0][0], b_all)
    return Matrix(parts, torch.cat([a for _, a, _, _ in adapted]).detach().to(kind), b_all.to(kind))


def _joined(parts: list[tuple[Tensor, Tensor | None]]) -> list[tuple[Tensor, Tensor | None]]:
    """One part of several; a bias that one of them lacks is 0."""
    if len(parts) == 1:
        return parts
    biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    some = any(bias is not None for _, bias in parts)
    return [(torch.cat([weight for weight, _ in parts]), torch.cat(biases) if some else None)]


def _normed(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotary embedding of heads x [N, H, d], by cos [N, 1, d] and sin [N, 1, d / 2]."""
    out = x * cos
    (low, high), (from_low, from_high) = out.chunk(2, -1), x.chunk(2, -1)
    low.addcmul_(from_high, sin, value=-1)
    high.addcmul_(from_low, sin)
    return out
