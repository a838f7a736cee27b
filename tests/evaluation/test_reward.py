"""What is said of a reward model, against counts by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
import torch

from align.data.tokenize import Encoded
from align.errors import AlignError
from align.evaluation.reward import (
    Evaluation,
    Named,
    ScoredRanking,
    attach_scores,
    evaluate,
    evaluate_quickly,
    flatten,
    misjudged,
)
from align.records import Ranking
from align.stats.rankings import LengthModel

LONGER = LengthModel(longer_wins=True, training=0.6)


def judged(
    scores: Sequence[float],
    ranks: Sequence[int | None],
    prompt: str = "p",
    lengths: Sequence[int] | None = None,
    labeler: str | None = None,
    strength: float | None = None,
) -> ScoredRanking:
    return ScoredRanking(
        prompt=prompt,
        responses=tuple("abcdefgh"[: len(ranks)]),
        lengths=tuple(lengths or [5] * len(ranks)),
        ranks=tuple(ranks),
        scores=tuple(scores),
        labeler=labeler,
        strength=strength,
    )


def shares(groups: Sequence[Named]) -> dict[str, tuple[float, int]]:
    return {group.name: (group.value, group.count) for group in groups}


def test_accuracy_counts_comparisons_and_the_interval_counts_prompts() -> None:
    rows = [judged((3, 2, 1), (1, 2, 3), "p"), judged((0, 1), (1, 2), "q"), judged((2, 1), (1, 2), "q")]
    found = evaluate(rows, LONGER, seed=0)
    assert (found.accuracy.value, found.accuracy.count, found.accuracy.prompts) == (0.8, 5, 2)
    assert (found.prompts, found.rankings, found.comparisons, found.ties) == (2, 3, 5, 0)
    # Drawn are: p and p, p and q (half of the time), q and q: 1, 0.8, 0.5.
    assert (found.accuracy.low, found.accuracy.high) == (0.5, 1.0)


def test_rankings_of_one_prompt_are_drawn_together() -> None:
    """50 prompts with a right and a wrong ranking each: every resample has exactly one half."""
    rows = [judged(s, (1, 2), f"p{i}") for i in range(50) for s in ((1, 0), (0, 1))]
    found = evaluate(rows, LONGER, seed=0).accuracy
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_equal_scores_are_half_right_and_ties_and_unranked_ones_do_not_count() -> None:
    found = evaluate([judged((1, 1, 5, 9), (1, 2, 2, None))], LONGER, seed=0)
    assert (found.accuracy.value, found.comparisons, found.ties) == (0.25, 2, 1)


def test_by_rank_gap_counts_steps_between_different_ranks() -> None:
    # ranks 1, 5, 9: gap 1 twice (one wrong), gap 2 once.
    found = evaluate([judged((3, 1, 2), (1, 5, 9)), judged((1, 2), (4, 7), "q")], LONGER, seed=0)
    assert shares(found.by_rank_gap) == {"1": (pytest.approx(1 / 3), 3), "2": (1.0, 1)}


def test_by_strength_and_by_labeler() -> None:
    rows = [
        judged((1, 0), (1, 2), "p", labeler="ann", strength=2),
        judged((0, 1), (1, 2), "q", labeler="bob", strength=0.5),
        judged((1, 0), (1, 2), "r", labeler="bob", strength=0.5),
        judged((1, 0), (1, 2), "s"),
    ]
    found = evaluate(rows, LONGER, seed=0)
    assert shares(found.by_strength) == {"0.5": (0.5, 2), "2": (1.0, 1)}
    assert list(shares(found.by_strength)) == ["0.5", "2"]
    assert shares(found.by_labeler) == {"bob": (0.5, 2), "ann": (1.0, 1)}
    silent = evaluate([judged((1, 0), (1, 2))], LONGER, seed=0)
    assert silent.by_strength == silent.by_labeler == ()
    assert silent.people is None


def test_many_strengths_become_quarters() -> None:
    rows = [judged((1, 0) if i >= 20 else (0, 1), (1, 2), f"p{i}", strength=float(i)) for i in range(40)]
    found = evaluate(rows, LONGER, seed=0).by_strength
    assert [group.count for group in found] == [10, 10, 10, 10]
    assert [group.value for group in found] == [0.0, 0.0, 1.0, 1.0]
    assert found[0].name == "0 to 9.75"


def test_many_labelers_become_others() -> None:
    rows = [judged((1, 0), (1, 2), f"p{i}", labeler=f"l{i}") for i in range(22)]
    found = evaluate([*rows, rows[21]], LONGER, seed=0).by_labeler
    assert len(found) == 21
    assert found[0].name == "l21"
    assert (found[-1].name, found[-1].count) == ("2 others", 2)


@pytest.mark.parametrize(
    ("lengths", "name"),
    [
        ((1, 52), "more than 50 shorter"),
        ((1, 51), "11 to 50 shorter"),
        ((1, 12), "11 to 50 shorter"),
        ((1, 11), "1 to 10 shorter"),
        ((1, 2), "1 to 10 shorter"),
        ((9, 9), "as long"),
        ((2, 1), "1 to 10 longer"),
        ((11, 1), "1 to 10 longer"),
        ((12, 1), "11 to 50 longer"),
        ((51, 1), "11 to 50 longer"),
        ((52, 1), "more than 50 longer"),
    ],
)
def test_by_length_difference(lengths: tuple[int, int], name: str) -> None:
    (group,) = evaluate([judged((1, 0), (1, 2), lengths=lengths)], LONGER, seed=0).by_length_difference
    assert group.name == name


def test_buckets_of_length_stand_from_shorter_to_longer() -> None:
    rows = [judged((1, 0), (1, 2), lengths=pair) for pair in ((60, 1), (1, 60), (5, 5), (3, 5), (1, 30))]
    names = [group.name for group in evaluate(rows, LONGER, seed=0).by_length_difference]
    assert names == [
        "more than 50 shorter",
        "11 to 50 shorter",
        "1 to 10 shorter",
        "as long",
        "more than 50 longer",
    ]


def test_length_alone_stands_beside_the_model() -> None:
    rows = [
        judged((1, 0), (1, 2), "p", lengths=(9, 3)),
        judged((1, 0), (1, 2), "q", lengths=(3, 9)),
        judged((0, 1), (1, 2), "r", lengths=(3, 9)),
        judged((0, 1), (1, 2), "s", lengths=(4, 4)),
    ]
    found = evaluate(rows, LONGER, seed=0)
    assert found.length_only.accuracy.value == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert (found.length_only.longer_wins, found.length_only.training) == (True, 0.6)
    assert evaluate(rows, LengthModel(False, 0.6), seed=0).length_only.accuracy.value == 2.5 / 4
    # Of the three of unequal length people take the longer one once, the model twice.
    assert found.longer_preferred.people.value == pytest.approx(1 / 3)
    assert found.longer_preferred.model.value == pytest.approx(2 / 3)


def test_people_are_asked_about_the_same_pairs() -> None:
    rows = [
        judged((2, 1), (1, 2), "p", labeler="ann"),
        judged((2, 1), (2, 1), "p", labeler="bob"),
        judged((2, 1), (1, 2), "p", labeler="cy"),
        judged((2, 1), (1, 1), "p", labeler="dee"),  # a tie is no decision
        judged((2, 1), (1, 2), "p"),  # who knows who that was
        judged((2, 1), (1, 2), "q", labeler="ann"),
    ]
    people = evaluate(rows, LONGER, seed=0).people
    assert people is not None
    assert (people.agreement.value, people.model.value) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (people.agreement.count, people.judgements, people.labelers) == (1, 3, 3)


def test_log_loss_and_tau_are_the_same_during_and_after_training() -> None:
    ln3 = math.log(3)
    rows = [judged((ln3, 0), (1, 2), "p"), judged((0, ln3), (1, 2), "q"), judged((0, 0), (1, 1), "r")]
    quick, whole = evaluate_quickly(rows, seed=0), evaluate(rows, LONGER, seed=0)
    assert quick.log_loss.value == pytest.approx(0.8369882, abs=1e-7)  # (-ln 0.75 - ln 0.25) / 2
    assert (quick.kendall_tau.value, quick.kendall_tau.count) == (0.0, 2)
    assert {k: whole.metrics()[k] for k in quick.metrics()} == pytest.approx(quick.metrics())


def test_without_a_comparison_nothing_is_known_and_the_document_is_valid_json() -> None:
    for rows in ([], [judged((1, 0), (1, 1))]):
        found = evaluate(rows, LONGER, seed=0)
        assert found.comparisons == 0
        assert math.isnan(found.metrics()["eval/accuracy"])
        text = json.dumps(found.document(), allow_nan=False)
        assert json.loads(text)["accuracy"]["value"] is None
        assert evaluate_quickly(rows, seed=0).accuracy.value is None


def test_the_document_has_the_shape_that_the_metrics_page_says() -> None:
    rows = [
        judged((1, 0), (1, 2), f"p{i}", lengths=(3, 4), labeler=name, strength=1)
        for i in range(3)
        for name in ("ann", "bob")
    ]
    document = evaluate(rows, LONGER, seed=0).document()
    share = {"value", "low", "high", "count", "prompts"}
    assert document["accuracy"].keys() == document["kendall_tau"].keys() == share
    for name in ("by_rank_gap", "by_strength", "by_labeler", "by_length_difference"):
        assert all(group.keys() == share | {"name"} for group in document[name]) and document[name]
    assert document["length_only"].keys() == share | {"longer_wins", "training"}
    assert document["longer_preferred"].keys() == {"people", "model"}
    assert document["people"].keys() == {"agreement", "model", "judgements", "labelers"}
    calibration = document["calibration"]
    assert calibration.keys() == {"temperature", "at_bound", "halves", "raw", "scaled"}
    assert calibration["raw"].keys() == calibration["scaled"].keys() == {"log_loss", "brier", "ece", "bins"}
    assert len(calibration["raw"]["bins"]) == 15
    assert calibration["raw"]["bins"][0].keys() == {
        *("low", "high", "count", "probability", "observed", "observed_low", "observed_high")
    }


def test_the_most_confident_mistakes_come_first() -> None:
    rows = [judged((0, 3, 1), (1, 2, 3)), judged((0, 0.5), (1, 2)), judged((2, 1), (2, 1))]
    found = [(c.ranking, c.better, c.worse, c.margin) for c in misjudged(rows)]
    assert found == [(0, 0, 1, -3), (0, 0, 2, -1), (2, 1, 0, -1), (1, 0, 1, -0.5)]


def test_judging_takes_lengths_from_the_tokens_and_the_rest_from_the_record() -> None:
    encoded = Encoded([1, 2], [[3, 4, 0], [5, 0]])
    record = Ranking("p", ("a", "b"), (2, 1), labeler="ann", strength=3.0)
    (one,) = attach_scores([encoded], [record.ranks], [torch.tensor([0.5, 2.0])], [record])
    assert (one.lengths, one.scores, one.labeler, one.strength) == ((3, 2), (0.5, 2.0), "ann", 3.0)
    (pair,) = flatten([one])
    assert (pair.better, pair.worse, pair.margin, pair.longer, pair.right) == (1, 0, 1.5, -1, 1.0)


def test_scores_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(AlignError, match="broken"):
        attach_scores([Encoded([1], [[2], [3]])], [(1, 2)], [torch.tensor([float("nan"), 1.0])])


def test_metrics_have_each_number_once() -> None:
    found: Evaluation = evaluate([judged((1, 0), (1, 2)), judged((0, 1), (1, 2), "q")], LONGER, seed=0)
    metrics = found.metrics()
    assert (metrics["eval/accuracy"], metrics["eval/length_only"]) == (0.5, 0.5)
    assert metrics["eval/brier"] == found.calibration.raw.brier.value
    assert math.isnan(metrics["eval/people"])
