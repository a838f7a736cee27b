"""What people do first: numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from align.loop.priorities import RewardModels, disagreement, gap, margin
from align.recipe import Priority
from align.sampling.params import Sampled


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.0, 0.0], 1.0), ([3.0, 1.0], 1 / 3), ([1.0, -5.0, 2.0], 0.5), ([-4.0, -4.0, 9.0], 1 / 14)],
)
def test_the_margin_is_of_the_two_best(scores: list[float], expected: float) -> None:
    assert margin(scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.0, 0.0], 0.0), ([3.0, 1.0], 2 / 3), ([1.0, -5.0, 2.0], 0.5), ([-4.0, -4.0, 9.0], 13 / 14)],
)
def test_the_gap_is_of_the_two_best_too(scores: list[float], expected: float) -> None:
    assert gap(scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "order"),
    [("none", "abc"), ("margin", "bca"), ("gap", "acb"), ("disagreement", "cab")],
)
def test_a_rule_orders_tasks(rule: Priority, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps of the two best by the first model: 3, 0.1, 1; the second turns c round and doubts a."""
    first = {"a": [3.0, 0.0, -9.0], "b": [0.1, 0.0], "c": [1.0, 0.0]}
    second = {"a": [0.5, 0.0, -9.0], "b": [0.1, 0.0], "c": [0.0, 1.0]}

    def scores(forward: object, role: str, pairs: Sequence[object], tokens: int) -> torch.Tensor:
        if not pairs:
            return torch.empty(0)
        of_role = first if role == "first" else second
        return torch.tensor([score for task in "abc" for score in of_role[task]])

    for read in ("score_pairs", "score_members"):  # a model without members has its one score from both
        monkeypatch.setattr(f"align.loop.priorities.{read}", scores)
    roles = {"none": [], "disagreement": ["first", "second"]}.get(rule, ["first"])
    models = RewardModels(rule, None if rule == "none" else object(), roles, 10)  # type: ignore[arg-type]
    tasks = [[Sampled([1], [2], [])] * len(first[task]) for task in "abc"]
    found = models.priorities(tasks)
    assert models.priorities([]) == []  # of a chunk whose prompts have no two different responses
    assert "".join(sorted("abc", key=lambda task: -found["abc".index(task)])) == order


def test_models_that_agree_have_no_disagreement_whatever_their_offsets() -> None:
    assert disagreement([[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]]) == pytest.approx(0.0)


def test_disagreement_is_the_mean_variance_of_the_preferences() -> None:
    three = math.log(3)  # odds of 3 to 1
    # the pairs (0, 1), (0, 2), (1, 2); P = 3/4 and 1/4, 3/4 and 3/4, 1/2 and 3/4
    first = disagreement([[three, 0.0], [0.0, three]])
    assert first == pytest.approx(((3 / 4 - 1 / 2) ** 2 + (1 / 4 - 1 / 2) ** 2) / 2)
    every = disagreement([[three, 0.0, 0.0], [0.0, three, -three]])
    nine = 0.9  # odds of 9 to 1
    pairs = [(3 / 4, 1 / 4), (3 / 4, 3 / 4), (1 / 2, nine)]
    assert every == pytest.approx(sum(((a - b) / 2) ** 2 for a, b in pairs) / 3)


def test_models_that_are_sure_of_opposites_disagree_the_most() -> None:
    assert disagreement([[1000.0, 0.0], [0.0, 1000.0]]) == pytest.approx(1 / 4)
