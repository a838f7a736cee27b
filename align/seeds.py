"""All draws are functions of the seed and of names: nothing depends on what was drawn before."""

from __future__ import annotations

import hashlib
import json

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded by a hash of (seed, names).

    torch's CPU generator uses the lower 32 bits of a seed, so the hash is cut to these: among 10,000
    generators, two are alike with a chance of about 1%.
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def order(seed: int, stage: str, epoch: int, n: int) -> list[int]:
    """A permutation of range(n), a function of the arguments only."""
    return torch.randperm(n, generator=generator(seed, stage, "order", epoch)).tolist()


def step_rows(seed: int, stage: str, step: int, batch_size: int, n: int) -> list[int]:
    """The rows of global step `step` (from 0): a slice of all epochs' orders, one behind the other.

    A batch may reach over the end of an epoch, or over several; each epoch has every row exactly once.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"step_rows needs n >= 1 and batch_size >= 1, not {n} and {batch_size}")
    start, stop = step * batch_size, (step + 1) * batch_size
    rows: list[int] = []
    for epoch in range(start // n, (stop - 1) // n + 1):
        first = epoch * n
        rows += order(seed, stage, epoch, n)[max(start - first, 0) : stop - first]
    return rows
