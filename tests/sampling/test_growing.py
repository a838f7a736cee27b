"""A cache with room ahead holds the same bits as transformers' own, and copies nothing for a token."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny_bases import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DynamicLayer

from align.models.roles import Roles
from align.sampling import growing
from align.sampling.cache import find_ways
from align.sampling.growing import GrowingLayer
from align.sampling.params import Draws, SamplingParams
from align.sampling.sampler import Hf


def test_it_holds_what_the_librarys_own_layer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "_AHEAD", 2)
    ours, theirs = GrowingLayer(), DynamicLayer()
    rows, seen = 3, []
    for step in range(12):
        tokens = 4 if step == 0 else 1
        key, value = torch.randn(rows, 2, tokens, 8), torch.randn(rows, 2, tokens, 6)
        for mine, own in zip(ours.update(key, value), theirs.update(key, value), strict=True):
            assert torch.equal(mine, own)
        seen.append(ours.keys.data_ptr())
        for layer in (ours, theirs):
            assert layer.get_seq_length() == 4 + step
            if step in (4, 8):
                layer.batch_select_indices(torch.tensor([0, 2, 2] if step == 4 else [1]))
            if step == 6:
                layer.reorder_cache(torch.tensor([2, 1, 0]))
        rows = len(ours.keys)
    assert rows == 1 and 4 <= len(set(seen)) < 9


class _Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def test_no_layer_joins_its_cache_anew_for_a_token() -> None:
    roles = Roles(tiny_model("gpt2", 64))
    roles.share("policy", "base", trains=False)
    engine, cats = Hf(roles, find_ways(roles)), {}
    for length in (4, 24):
        params = SamplingParams(1.0, -1, 0, max_tokens=length, batch_tokens=1000)
        with _Counted() as counted:
            engine.sample([[5, 6, 7], [8, 9]], Draws(0, "test", 0, range(2)), params)
        cats[length] = counted.ops["aten::cat"]
    assert cats[24] - cats[4] == 20  # the mask's, not two for each of four layers
