"""The same numbers from the same start, on a GPU too: which of torch's kernels may run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.deterministic as deterministic


def choose_kernels(same_bits: bool) -> None:
    """Let torch use only kernels that always give the same bits, and raise where it has none; or any kernel.

    Strict and not `warn_only`: with the latter, the backward passes of flash and memory-efficient attention
    keep the order of their additions to chance. cuDNN's attention, which torch would take first on Hopper,
    makes a plan for every new length of its input: sampling has one for every token.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if same_bits:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
        # Filling fresh memory would cost time and change no result. (The stubs do not know the switch.)
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(same_bits)


@contextmanager
def lenient() -> Iterator[None]:
    """Only warn where a kernel is not deterministic: sampling sums probabilities up, which on a GPU has none.

    There the order of a few additions is left to chance, so a token whose number falls on the edge of two
    may be the other one in another run; everything that trains is strict.
    """
    with _restored():
        torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=True)
        yield


@contextmanager
def distinct() -> Iterator[None]:
    """For writes to places that are all different: their order cannot matter, and torch's kernel that keeps
    it would sort the places first."""
    with _restored():
        torch.use_deterministic_algorithms(False)
        yield


@contextmanager
def _restored() -> Iterator[None]:
    strict, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warned)
