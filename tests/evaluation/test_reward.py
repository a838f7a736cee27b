"""Pair accuracy and its interval against counts by hand."""

from __future__ import annotations

import math

import pytest
import torch

from align.evaluation.reward import evaluate_pairs, misjudged


def test_accuracy_counts_comparisons_not_rankings() -> None:
    scores = [torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0])]
    found = evaluate_pairs(scores, [(1, 2, 3), (1, 2)], seed=0)
    assert (found.accuracy, found.comparisons) == (0.75, 4)  # three right, one wrong
    assert 0.0 <= found.low <= 0.75 <= found.high <= 1.0


def test_equal_scores_are_half_right_and_ties_do_not_count() -> None:
    found = evaluate_pairs([torch.tensor([1.0, 1.0, 5.0])], [(1, 2, 2)], seed=0)
    assert found.comparisons == 2
    assert found.accuracy == pytest.approx(0.25)


def test_the_interval_is_that_of_a_share_over_prompts() -> None:
    # 100 prompts with one comparison each, 80 right: the binomial interval is 0.8 ± 1.96 * 0.04.
    scores = [torch.tensor([1.0, 0.0]) if i < 80 else torch.tensor([0.0, 1.0]) for i in range(100)]
    found = evaluate_pairs(scores, [(1, 2)] * 100, seed=0)
    assert found.low == pytest.approx(0.8 - 1.96 * 0.04, abs=0.015)
    assert found.high == pytest.approx(0.8 + 1.96 * 0.04, abs=0.015)


def test_without_a_comparison_there_is_no_accuracy() -> None:
    found = evaluate_pairs([torch.tensor([1.0, 0.0])], [(1, 1)], seed=0)
    assert found.comparisons == 0
    assert math.isnan(found.accuracy)


def test_the_most_confident_mistakes_come_first() -> None:
    scores = [torch.tensor([0.0, 3.0, 1.0]), torch.tensor([0.0, 0.5]), torch.tensor([2.0, 1.0])]
    found = misjudged(scores, [(1, 2, 3), (1, 2), (1, 2)])
    assert found == [(0, 0, 1, 3.0), (0, 0, 2, 1.0), (1, 0, 1, 0.5)]
