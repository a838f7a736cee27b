"""Which tokens top-k and top-p leave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from align.sampling.filters import keep_top_k, keep_top_p, narrowed
from align.sampling.params import SamplingParams
from align.sampling.sampler import draw

PARAMS = SamplingParams(1.0, eos_id=1, pad_id=0, max_tokens=8, batch_tokens=1000)
P = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)


def left(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]


@pytest.mark.parametrize(("k", "first"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (9, [0, 1, 2, 3])])
def test_top_k_leaves_the_likeliest(k: int, first: list[int]) -> None:
    assert left(keep_top_k(P.log(), k))[0] == first


@pytest.mark.parametrize(
    ("p", "first", "second"),
    [(1e-6, [1], [0]), (0.5, [1, 3], [0]), (0.75, [1, 2, 3], [0]), (0.98, [0, 1, 2, 3], [0, 1])],
)
def test_top_p_leaves_the_fewest_that_reach_it(p: float, first: list[int], second: list[int]) -> None:
    rows = left(keep_top_p(P.log(), p))
    assert (rows[0], len(rows[1]), rows[1][0]) == (first, len(second), 0)


def test_what_is_left_keeps_its_proportions() -> None:
    u = (torch.arange(7000, dtype=torch.float64) + 0.5) / 7000
    tokens, logprobs = draw(P[:1].log().expand(7000, 4), u, 0, replace(PARAMS, top_k=3, top_p=0.7))
    # top-k leaves 0.4, 0.2 and 0.3; of their sum 0.9, the first two reach 0.7: odds of 4 to 3
    assert torch.bincount(tokens, minlength=4).tolist() == pytest.approx([0, 4000, 0, 3000], abs=1)
    assert logprobs.exp().unique().tolist() == pytest.approx([3 / 7, 4 / 7])


def test_a_barred_token_does_not_take_a_place() -> None:
    u, params = torch.full((2,), 0.5, dtype=torch.float64), replace(PARAMS, min_tokens=2, top_k=1)
    tokens, _ = draw(P[:1].log().expand(2, 4), u, torch.tensor([1, 2]), params)
    assert tokens.tolist() == [3, 1]


def test_nothing_is_taken_where_nothing_is_asked() -> None:
    assert narrowed(P.log(), None, None).equal(P.log())
