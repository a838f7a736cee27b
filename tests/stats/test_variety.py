"""Distinct n-grams and repetition, counted by hand."""

import pytest

from align.stats.variety import distinct, repetition


def test_distinct_ngrams_are_counted_over_all_texts() -> None:
    texts = ["a b a", "b c"]  # words a b a b c; pairs ab ba | bc
    assert distinct(texts, 1) == pytest.approx(3 / 5)
    assert distinct(texts, 2) == 1.0
    assert distinct(texts, 4) is None


def test_repetition_is_what_came_before() -> None:
    assert repetition("x y x y x y", 2) == pytest.approx(1 - 2 / 5)  # xy yx xy yx xy
    assert repetition("one two three four five") == 0.0
    assert repetition("too short") is None
