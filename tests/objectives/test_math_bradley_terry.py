"""The ranking loss against hand sums, identities and finite differences."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.objectives.bradley_terry import (
    Ties,
    batch_loss,
    has_pair,
    pair_accuracy,
    ranking_loss,
)
from align.stats.rankings import Ranks, comparisons, ties

LN2 = math.log(2)
rankings = st.lists(
    st.tuples(st.floats(-20, 20, width=32), st.one_of(st.none(), st.integers(1, 4))), min_size=1, max_size=9
)

quietly = settings(deadline=None, derandomize=True)  # no failures by load or by luck


def cost(difference: float) -> float:
    """-log sigmoid(difference), written out."""
    return math.log(1 + math.exp(-difference))


def test_comparisons_and_ties_of_a_ranking() -> None:
    ranks = [2, 1, None, 2, 5]
    assert comparisons(ranks) == [(1, 0), (0, 4), (1, 3), (1, 4), (3, 4)]
    assert ties(ranks) == [(0, 3)]


def test_nine_responses_give_36_comparisons() -> None:
    assert len(comparisons(range(1, 10))) == 36
    assert ties(list(range(1, 10))) == []


def test_three_responses_by_hand() -> None:
    loss = ranking_loss(torch.tensor([2.0, 1.0, 0.0]), [1, 2, 3])
    assert loss.item() == pytest.approx((0.3132617 + 0.3132617 + 0.1269280) / 3, abs=1e-6)
    wrong_way = ranking_loss(torch.tensor([2.0, 1.0, 0.0]), [3, 2, 1])
    assert wrong_way.item() == pytest.approx((1.3132617 + 1.3132617 + 2.1269280) / 3, abs=1e-6)


@pytest.mark.parametrize("k", [2, 4, 9])
@pytest.mark.parametrize("mode", ["ignore", "half"])
def test_equal_scores_cost_ln_2_whatever_k(k: int, mode: Ties) -> None:
    scores = torch.full((k,), 3.7)
    assert ranking_loss(scores, list(range(k)), mode).item() == pytest.approx(LN2)


def test_ties_by_hand() -> None:
    scores, ranks = torch.tensor([3.0, 1.0, 0.0]), [1, 2, 2]
    decided = cost(2) + cost(3)
    tied = (cost(1) + cost(-1)) / 2
    assert ranking_loss(scores, ranks).item() == pytest.approx(decided / 2, abs=1e-6)
    assert ranking_loss(scores, ranks, "half").item() == pytest.approx((decided + tied) / 3, abs=1e-6)


def test_a_tie_pulls_its_scores_together_only_if_it_counts() -> None:
    cases: list[tuple[Ties, float]] = [("ignore", 0.0), ("half", 1 / (1 + math.exp(-2.0)) - 0.5)]
    for mode, expected in cases:
        scores = torch.tensor([2.0, 0.0], requires_grad=True)
        ranking_loss(scores, [1, 1], mode).backward()
        assert scores.grad is not None
        assert scores.grad.tolist() == pytest.approx([expected, -expected])


def test_centering_by_hand() -> None:
    scores, ranks = torch.tensor([2.0, 1.0, -4.0]), [1, 2, None]
    assert ranking_loss(scores, ranks, centering_coef=0.1).item() == pytest.approx(cost(1) + 0.1 * 9)


def test_a_margin_asks_for_more_of_decided_pairs_only() -> None:
    scores, ranks = torch.tensor([3.0, 1.0, 0.0], requires_grad=True), [1, 2, 2]
    decided, tied = cost(2 - 0.5) + cost(3 - 0.5), (cost(1) + cost(-1)) / 2
    assert ranking_loss(scores, ranks, margin=0.5).item() == pytest.approx(decided / 2, abs=1e-6)
    loss = ranking_loss(scores, ranks, "half", margin=0.5)
    assert loss.item() == pytest.approx((decided + tied) / 3, abs=1e-6)
    both = batch_loss([scores, scores], [ranks, [3, 2, 1]], margins=[0.5, 0.0])
    wrong_way = (cost(-2) + cost(-3) + cost(-1)) / 3
    assert both.item() == pytest.approx((decided / 2 + wrong_way) / 2, abs=1e-6)


@pytest.mark.parametrize("ranks", [[None, None, None], [1, None, None], [2, 2, 2]])
def test_no_pair_is_an_attached_zero(ranks: list[int | None]) -> None:
    scores = torch.tensor([1.0, float("inf"), float("nan")], requires_grad=True)
    loss = ranking_loss(scores, ranks, centering_coef=1.0)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.tolist() == [0, 0, 0]
    assert not has_pair(ranks)
    assert pair_accuracy(scores, ranks) == (0.0, 0)


def test_an_unranked_response_changes_nothing() -> None:
    scores = torch.tensor([1.0, float("nan"), 0.0], requires_grad=True)
    loss = ranking_loss(scores, [1, None, 2], "half", centering_coef=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(cost(1) + 0.5)
    assert scores.grad is not None
    assert scores.grad[1] == 0
    assert scores.grad.isfinite().all()


@quietly
@given(rankings, st.floats(-5, 5), st.randoms())
def test_only_differences_and_the_order_of_ranks_matter(ranking, shift, random) -> None:  # type: ignore[no-untyped-def]
    scores = torch.tensor([s for s, _ in ranking], dtype=torch.float64)
    ranks = [r for _, r in ranking]
    modes: tuple[Ties, ...] = ("ignore", "half")
    for mode in modes:
        loss = ranking_loss(scores, ranks, mode).item()
        order = random.sample(range(len(ranks)), len(ranks))
        shuffled = ranking_loss(scores[order], [ranks[i] for i in order], mode).item()
        stretched = [None if r is None else 10 * r * r for r in ranks]
        assert ranking_loss(scores + shift, ranks, mode).item() == pytest.approx(loss, abs=1e-9)
        assert shuffled == pytest.approx(loss, abs=1e-9)
        assert ranking_loss(scores, stretched, mode).item() == pytest.approx(loss, abs=1e-9)


@quietly
@given(rankings)
def test_pairs_are_complete_and_the_accuracy_is_a_count(ranking) -> None:  # type: ignore[no-untyped-def]
    scores, ranks = [s for s, _ in ranking], [r for _, r in ranking]
    ranked = [i for i, r in enumerate(ranks) if r is not None]
    both = comparisons(ranks) + ties(ranks)
    assert sorted(tuple(sorted(pair)) for pair in both) == list(combinations(ranked, 2))
    correct, total = pair_accuracy(torch.tensor(scores), ranks)
    mirrored, _ = pair_accuracy(-torch.tensor(scores), ranks)
    assert total == len(comparisons(ranks))
    assert correct + mirrored == total


def test_pair_accuracy_by_hand() -> None:
    assert pair_accuracy(torch.tensor([3.0, 2.0, 1.0]), [1, 2, 3]) == (3.0, 3)
    assert pair_accuracy(torch.tensor([3.0, 2.0, 1.0]), [3, 1, 2]) == (1.0, 3)
    assert pair_accuracy(torch.tensor([1.0, 1.0, 0.0]), [1, 2, 3]) == (2.5, 3)
    assert pair_accuracy(torch.tensor([5.0, 1.0, 9.0]), [1, 1, None]) == (0.0, 0)


def test_every_ranking_weighs_the_same_and_pairless_ones_nothing() -> None:
    scores = [torch.tensor([1.0, 0.0]), torch.zeros(9), torch.tensor([4.0, 4.0])]
    ranks: list[Ranks] = [[1, 2], list(range(9)), [1, 1]]
    assert batch_loss(scores, ranks).item() == pytest.approx((cost(1) + LN2) / 2)
    assert batch_loss(scores, ranks, "half").item() == pytest.approx((cost(1) + LN2 + LN2) / 3)
    assert batch_loss(scores[2:], ranks[2:]).item() == 0


def test_parts_with_the_whole_batches_count_add_up() -> None:
    generator = torch.Generator().manual_seed(3)
    ranks: list[Ranks] = [[1, 2], [1, 2, 3, 4], [1, 1], [2, None, 1], [1, 3, 2]]
    whole = [torch.randn(len(r), generator=generator, dtype=torch.float64).requires_grad_() for r in ranks]
    parts = [s.detach().clone().requires_grad_() for s in whole]
    count = sum(has_pair(r) for r in ranks)
    assert count == 4
    loss = batch_loss(whole, ranks, centering_coef=0.1)
    loss.backward()
    pieces = [
        batch_loss(parts[i:j], ranks[i:j], centering_coef=0.1, count=count)
        for i, j in ((0, 1), (1, 3), (3, 5))
    ]
    torch.stack(pieces).sum().backward()
    assert sum(p.item() for p in pieces) == pytest.approx(loss.item())
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("mode", ["ignore", "half"])
def test_gradients_agree_with_finite_differences(mode: Ties) -> None:
    scores = torch.tensor([0.3, -1.2, 2.0, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: ranking_loss(s, [2, 1, None, 2], mode, 0.3), (scores,))


def test_half_precision_scores_are_upcast_before_they_are_subtracted() -> None:
    scores = torch.tensor([100.5, 100.0, 0.125], dtype=torch.bfloat16)
    loss = ranking_loss(scores, [1, 2, 3])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(cost(0.5) / 3, abs=1e-6)


def test_huge_differences_stay_finite() -> None:
    scores = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss = ranking_loss(scores, [1, 2])
    loss.backward()
    assert loss.item() == 2000
    assert scores.grad is not None
    assert scores.grad.tolist() == [-1, 1]


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="3 ranks"):
        ranking_loss(torch.zeros(2), [1, 2, 3])
    with pytest.raises(ValueError, match="shape"):
        pair_accuracy(torch.zeros(2, 1), [1, 2])
    with pytest.raises(ValueError, match="ties"):
        ranking_loss(torch.zeros(2), [1, 2], "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 score"):
        batch_loss([], [])
    with pytest.raises(ValueError, match="2 margins"):
        batch_loss([torch.zeros(2)], [[1, 2]], margins=[0.0, 1.0])
