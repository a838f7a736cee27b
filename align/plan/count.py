"""Bytes that are alive while a pass runs on meta tensors: shapes without numbers, so 70B takes seconds.

The passes are the stages' own, so what is counted follows the code. Every result of an operation is a
storage that lives until nobody holds it, as on a device; what an operation needs only within itself is not
seen. Two things have no answer without numbers: which attention kernel runs (it keeps queries, keys, values,
its result and a number a query and head, as flash and memory-efficient attention do), and what a mask
says (all that it may let through counts).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make: `now`, and the most since `rest`, but for those held before.

    number: what `int(x)` of a tensor gives. Passes ask it of one thing, the longest response of a batch.
    It counts tensors with numbers just as well, which tests use.
    """

    def __init__(self, held: Iterable[Tensor] = (), number: int = 0) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._number = number
        self._alive: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._see(tensor, counts=False)

    def rest(self) -> None:
        """Measure the peak from here on."""
        self.peak = self.now

    def _see(self, tensor: Tensor, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if counts else 0
        if key in self._alive:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _without_numbers(func, args, self._number)
        if found is None:
            found = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, found)
        return found


def _without_numbers(func: Any, args: Any, number: int) -> Any:
    """The result of an operation whose shape depends on numbers, for meta tensors; None for all others."""
    if not (args and isinstance(args[0], Tensor) and args[0].is_meta):
        return None
    x = args[0]
    if func is aten._local_scalar_dense.default:
        # `if mask.all()`: no, so that the mask is made and counted.
        return False if x.dtype == torch.bool else number
    if func is aten.index.Tensor and _by_mask(args[1]):
        mask = args[1][0]
        return x.new_empty((mask.numel(), *x.shape[mask.ndim :]))
    if func in (aten.index_put.default, aten._unsafe_index_put.default) and _by_mask(args[1]):
        return torch.empty_like(x)
    if func is aten.index_put_.default and _by_mask(args[1]):
        return x
    if func is aten.masked_select.default:
        return x.new_empty(args[1].numel())
    if func is aten._grouped_mm.default and args[2] is not None:  # for experts; meta wants bfloat16
        return x.new_empty(_grouped(x, args[1], args[2]))
    if func is aten.nonzero.default:
        return torch.empty(x.numel(), x.ndim, dtype=torch.int64, device="meta")
    return None


def _grouped(left: Tensor, right: Tensor, ends: Tensor) -> tuple[int, ...]:
    """The shape of a product whose groups share out the rows, or what is summed."""
    if left.ndim == right.ndim == 2:
        return ends.numel(), left.shape[0], right.shape[1]
    return left.shape[-2], right.shape[-1]


def _by_mask(indices: Any) -> bool:
    return bool(indices) and indices[0] is not None and indices[0].dtype == torch.bool


class _Attention(torch.autograd.Function):
    """What a kernel for attention keeps and gives back, whatever it computes."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and mask.dtype == torch.bool:  # kernels add a number to each pair
            mask = torch.empty_like(mask, dtype=query.dtype)
        rows, heads, length, _ = query.shape
        # As kernels lay it out: a token's heads side by side, so that the model need not copy it.
        out = query.new_empty(rows, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)  # of each row, by their logarithms
        ctx.save_for_backward(query, key, value, out, sums, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(torch.empty_like(x) for x in ctx.saved_tensors[:3]), None


@contextmanager
def _stand_ins(gpu: bool) -> Iterator[None]:
    """What the meta device lacks: a kernel for attention, as torch would take the one that keeps all pairs of
    tokens, and what `without_casts` says.

    gpu: whether the device has kernels with dropout, and for values that are narrower than their keys (as
    DeepSeek's are). A CPU has not, and keeps the pairs.
    """
    functional: Any = torch.nn.functional
    attention = functional.scaled_dot_product_attention

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *more: Any, **named: Any
    ) -> Any:
        dropout = more[0] if more else named.get("dropout_p", 0.0)
        keeps_pairs = not gpu and (dropout or value.shape[-1] != query.shape[-1])
        if not query.is_meta or keeps_pairs:
            return attention(query, key, value, attn_mask, *more, **named)
        return _Attention.apply(query, key, value, attn_mask)

    functional.scaled_dot_product_attention = attend
    try:
        with without_casts():
            yield
    finally:
        functional.scaled_dot_product_attention = attention


@contextmanager
def without_casts() -> Iterator[None]:
    """No automatic casts on the meta device, where torch raises when asked of them. No stage casts anywhere.

    PEFT asks where it lays adapters on experts, so models are built inside too.
    """
    torch_: Any = torch
    casts, autocast = torch_.is_autocast_enabled, torch_.autocast

    def cast(device_type: str, *more: Any, **named: Any) -> Any:
        return nullcontext() if device_type == "meta" else autocast(device_type, *more, **named)

    torch_.is_autocast_enabled = lambda *device: device[:1] != ("meta",) and casts(*device)
    torch_.autocast = cast
    try:
        yield
    finally:
        torch_.is_autocast_enabled, torch_.autocast = casts, autocast


@contextmanager
def counted(held: Iterable[Tensor], number: int = 0, gpu: bool = True) -> Iterator[LiveBytes]:
    """Counts what is alive inside, beside what was held before; `gpu`: by its kernels."""
    with _stand_ins(gpu), LiveBytes(held, number) as live:
        yield live
