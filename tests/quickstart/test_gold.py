"""The quick start's measures, against numbers counted by hand or published by VADER's authors."""

from __future__ import annotations

import pytest

import gold


def test_distinct_2_counts_pairs_over_all_texts() -> None:
    # a-b, b-a, a-b and a-b: four pairs, two distinct; no pair across the two texts
    assert gold.distinct_2(["a b a b", "A, b!"]) == 2 / 4
    assert gold.distinct_2(["one two three"]) == 1.0
    assert gold.distinct_2(["it's it's"]) == 1.0  # an apostrophe does not split a word


def test_distinct_2_of_texts_without_pairs_is_zero() -> None:
    assert gold.distinct_2(["", "alone", "!"]) == 0.0


def test_mean_and_error() -> None:
    # deviations -1, 0, 1: variance 1 with n - 1, over the root of 3
    mean, error = gold.mean_and_error([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert error == pytest.approx(1 / 3**0.5)
    assert gold.mean_and_error([0.5]) == (0.5, 0.0)


def test_positive_share_includes_the_threshold() -> None:
    assert gold.positive_share([0.05, 0.049, -1.0, 1.0]) == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # the examples in VADER's own README
        ("VADER is smart, handsome, and funny.", 0.8316),
        ("VADER is not smart, handsome, nor funny.", -0.7424),
        ("The book was good.", 0.4404),
        ("Today SUX!", -0.5461),
    ],
)
def test_compound_is_vaders(text: str, expected: float) -> None:
    pytest.importorskip("vaderSentiment", reason="the quickstart extra is not installed")
    assert gold.compound(text) == pytest.approx(expected)
