"""Whether a continuation repeats a text: its longest run in common, and whether it begins with it exactly."""

from __future__ import annotations

from collections.abc import Sequence


def longest_common_run(found: Sequence[int], true: Sequence[int]) -> tuple[int, int]:
    """The length of the longest run of tokens that stands in both, wherever, and where it begins in `found`.

    Of several equally long ones the first in `found`; (0, 0) where they share no token.
    """
    best, start = 0, 0
    ending = [0] * (len(true) + 1)  # j: how long the run is that ends before this token and at true[j - 1]
    for i, token in enumerate(found):
        now = [0] * (len(true) + 1)
        for j, other in enumerate(true, 1):
            if token == other:
                now[j] = ending[j - 1] + 1
                if now[j] > best:
                    best, start = now[j], i + 1 - now[j]
        ending = now
    return best, start


def is_extracted(found: Sequence[int], true: Sequence[int], tokens: int) -> bool:
    """Whether `found` begins with the first `tokens` tokens of `true`, with all of it where it is shorter.

    Carlini et al. 2022 (arXiv 2202.07646), who take 50 tokens and greedy decoding. False for an empty text.
    """
    wanted = list(true[:tokens])
    return bool(wanted) and list(found[: len(wanted)]) == wanted
