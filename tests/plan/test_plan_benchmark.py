"""The benchmark that plans are held against: what it measures is the stage's alone."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import pytest
import torch
from conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("plan")


def cycle(numbers: int) -> None:
    """A tensor of so many float32 that nobody needs, in a cycle of references, as trainers leave models."""
    held: list[Any] = [torch.ones(numbers)]
    held.append(held)


def test_what_an_earlier_stage_left_is_not_taken_off_the_peak(benchmark: Any) -> None:
    """It is given back whenever Python comes to it, perhaps while the next stage is measured.

    The allocator only knows again what it gave out under the profiler, so the earlier one is measured too.
    """

    def stage() -> None:
        gc.collect()
        torch.ones(250_000).sum()

    gc.disable()
    try:
        benchmark.blocks(lambda: cycle(10**6))
        most, held = benchmark.blocks(stage)
    finally:
        gc.enable()
    assert 10**6 <= most < 1.01 * 10**6
    assert held == 0
