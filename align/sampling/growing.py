"""transformers' cache with room ahead in layers of full attention: no token copies those before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_AHEAD = 64  # tokens for which there is room when keys and values have to move


class GrowingLayer(DynamicLayer):
    """Keys and values as views of larger buffers. Rows that were chosen move, and get room of their own."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values [B, H, L, d], the new ones behind."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append("keys", key_states)
        self.values = self._append("values", value_states)
        return self.keys, self.values

    def _append(self, name: str, new: Tensor) -> Tensor:
        kept: Tensor = getattr(self, name)
        begin = kept.shape[-2] if kept.numel() else 0
        end, buffer = begin + new.shape[-2], self._buffers.get(name)
        if not begin or buffer is None or end > buffer.shape[-2] or not _within(kept, buffer):
            buffer = new.new_empty(*new.shape[:-2], end + _AHEAD, new.shape[-1])
            self._buffers[name] = buffer
            if begin:
                buffer[..., :begin, :] = kept
        buffer[..., begin:end, :] = new
        return buffer[..., :end, :]


def growing_cache(config: Any) -> DynamicCache:
    """transformers' own cache for a model, but for its layers of full attention."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _within(kept: Tensor, buffer: Tensor) -> bool:
    """Whether it is still the buffer's beginning, for all rows."""
    return kept.data_ptr() == buffer.data_ptr() and torch.Size(kept.shape[:-2]) == buffer.shape[:-2]
