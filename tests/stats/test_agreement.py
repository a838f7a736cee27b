"""Rank correlation, people among themselves and length alone, against counts by hand and scipy."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from align.stats.agreement import Verdict, agreement
from align.stats.bootstrap import Draws
from align.stats.rankings import LengthModel, Ranks, fit_length_model, kendall_tau_b, length_wins


@pytest.mark.parametrize(
    ("scores", "ranks", "tau"),
    [
        ((3.0, 2.0, 1.0), (1, 2, 3), 1.0),
        ((1.0, 2.0, 3.0), (1, 2, 3), -1.0),
        ((4.0, 1.0, 3.0, 2.0), (1, 2, 3, 4), (4 - 2) / 6),
        ((4.0, 3.0, 2.0, 1.0), (1, 2, 2, 3), 5 / math.sqrt(5 * 6)),  # one tie among the ranks
        ((2.0, 2.0, 1.0), (1, 2, 3), 2 / math.sqrt(3 * 2)),  # one among the scores
        ((2.0, 9.0, 1.0), (1, None, 2), 1.0),  # the unranked one takes no part
        ((1.0, 1.0, 1.0), (1, 2, 3), 0.0),
    ],
)
def test_kendalls_tau_by_hand(scores: tuple[float, ...], ranks: tuple[int | None, ...], tau: float) -> None:
    assert kendall_tau_b(scores, ranks) == pytest.approx(tau)


def test_kendalls_tau_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    for _ in range(200):
        size = draw.randint(2, 9)
        ranks = [draw.randint(1, 4) for _ in range(size)]
        scores = [float(draw.randint(0, 5)) for _ in range(size)]
        theirs = stats.kendalltau(scores, [-rank for rank in ranks]).statistic
        ours = kendall_tau_b(scores, ranks)
        if len(set(ranks)) == 1:
            assert math.isnan(ours)
        elif len(set(scores)) > 1:
            assert ours == pytest.approx(theirs)


def test_people_and_the_model_on_the_same_pairs_by_hand() -> None:
    """a > b, a > b, b > a: one of three couples agrees. c > d twice: they agree, and the model does not."""
    verdicts = [
        Verdict(0, "x", "a", "b", 1.0),
        Verdict(0, "y", "a", "b", 1.0),
        Verdict(0, "z", "b", "a", 0.0),
        Verdict(1, "x", "c", "d", 0.0),
        Verdict(1, "y", "c", "d", 0.0),
        Verdict(2, "x", "a", "b", 1.0),  # judged by one person
        Verdict(3, "x", "a", "b", 1.0),  # the same pair of texts behind another prompt
        Verdict(4, "x", "a", "b", 1.0),
        Verdict(4, "x", "b", "a", 0.0),  # by the same person twice
        Verdict(5, "x", "e", "e", 0.5),
        Verdict(5, "y", "e", "e", 0.5),  # the same text twice
    ]
    found = agreement(verdicts, 6, Draws())
    assert found is not None
    assert found.agreement.value == pytest.approx((1 / 3 + 1) / 2)
    assert found.model.value == pytest.approx((2 / 3 + 0) / 2)
    assert (found.agreement.count, found.judgements, found.labelers) == (2, 5, 3)


def test_a_person_who_judged_twice_is_coupled_with_others_only() -> None:
    verdicts = [
        Verdict(0, "x", "a", "b", 1.0),
        Verdict(0, "x", "b", "a", 0.0),
        Verdict(0, "y", "a", "b", 1.0),
    ]
    found = agreement(verdicts, 1, Draws())
    assert found is not None and found.agreement.value == 0.5  # y with x's first, y with x's second


def test_without_several_labelers_nothing_is_known() -> None:
    assert agreement([Verdict(0, "x", "a", "b", 1.0)], 1, Draws()) is None
    assert agreement([], 0, Draws()) is None


def fitted(lengths: Sequence[Sequence[int]], ranks: Sequence[Ranks]) -> LengthModel:
    return fit_length_model(length_wins(zip(ranks, lengths, strict=True)))


def test_the_length_model_takes_the_direction_of_the_training_rankings() -> None:
    longer = fitted([(5, 3, 3), (2, 7)], [(1, 2, 3), (1, 2)])
    # 5 > 3 twice, 3 = 3 is half, 2 < 7 is wrong: 2.5 of 4.
    assert longer == LengthModel(longer_wins=True, training=0.625)
    assert [longer.says(d) for d in (4, 0, -1)] == [1.0, 0.5, 0.0]
    shorter = fitted([(1, 3), (2, 7), (4, 1)], [(1, 2)] * 3)
    assert shorter == LengthModel(longer_wins=False, training=pytest.approx(2 / 3))
    assert [shorter.says(d) for d in (4, 0, -1)] == [0.0, 0.5, 1.0]


def test_without_training_comparisons_its_accuracy_is_unknown() -> None:
    assert fitted([(1, 2)], [(1, 1)]).training is None
