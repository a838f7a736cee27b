"""What every stage asks of torch before it computes anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from align.recipe.load import load_recipe
from align.stages.frame import set_up


def test_deterministic_kernels_are_asked_for_on_gpus_too(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's switch alone leaves cuBLAS out: it reads its own variable, before its first call."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    set_up(load_recipe(tiny_recipe()))
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
