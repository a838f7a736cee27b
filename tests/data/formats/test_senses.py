"""Columns whose names, or numbers, say the opposite of the key under which the recipe has them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from align.data.formats import from_columns
from align.data.scan import gathered
from align.errors import UserError
from align.recipe.load import read_columns
from align.records import Ranking
from align.values import RecordError


def ranks(columns: str, *rows: Mapping[str, Any]) -> list[Sequence[int | None]]:
    """The ranks of each row's answers, as a file of these rows has them."""
    form, given = from_columns(read_columns(columns)), ((f":{i}", row) for i, row in enumerate(rows, 1))
    return [
        list(record.ranks)
        for _, row in gathered(form, given)
        for record in form.read(row)
        if isinstance(record, Ranking)
    ]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("responses: r, ranks: score", "say `scores: score` instead"),
        ("responses: [a, b], ranks: [stars_a, stars_b]", "say `scores: [stars_a, stars_b]` instead"),
        ("responses: out.text, ranks: out.votes", "sounds like scores"),
        ("responses: r, ranks: rating, group_by: q", "or `best: 1` beside it"),
        ("responses: r, scores: rank", "say `ranks: rank` instead"),
        ("responses: r, scores: perplexity", "say `lower_is_better: true` beside it"),
        ("responses: r, scores: place, group_by: q", "say `ranks: place` instead"),
        ("responses: r, chosen: is_worst, group_by: q", "`scores: is_worst, lower_is_better: true`"),
        ("responses: r, chosen: rejected, group_by: q", "sounds like the worst"),
        ("chosen: worse, rejected: better", "swap them"),
        ("chosen: rejected, rejected: chosen", "swap them"),
        ("responses: [a, b], verdict: less_preferred", "say `verdict: {worst: less_preferred}`"),
        ("responses: [a, b], verdict: bad_one", "sounds like the worse one"),
        ("responses: r, verdict: {best: worst_id}", "`worst_id` sounds like the worse one"),
        ("responses: r, verdict: {best: a, worst: preferred}", "`preferred` sounds like the better one"),
    ],
)
def test_a_name_that_says_the_opposite_of_its_key_is_refused(columns: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_columns(f"{{prompt: q, {columns}}}")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "columns",
    [
        "responses: r, ranks: score, best: 1",
        "responses: r, ranks: rank_of_score",
        "responses: r, scores: rank, lower_is_better: true",
        "responses: r, scores: rank, lower_is_better: false",
        "responses: r, scores: reward_rank",
        "responses: r, scores: is_worst, lower_is_better: true, group_by: q",
        "responses: r, chosen: is_best, group_by: q",
        "chosen: gold, rejected: best_of_model",
        "chosen: not_rejected, rejected: rejected",
        "responses: [a, b], verdict: better_or_worse",
    ],
)
def test_a_name_that_says_nothing_or_is_confirmed_is_taken(columns: str) -> None:
    read_columns(f"{{prompt: q, {columns}}}")


ROW = {"q": "Open?", "r": ["A", "B", "C"]}


@pytest.mark.parametrize("numbers", [[5, 4, 1], [3, 5, 4], [2, 2, 2]])
def test_ranks_that_may_be_scores_are_refused_until_the_recipe_says_which(numbers: list[int]) -> None:
    rows = [ROW | {"k": [1, 1, 2]}, ROW | {"k": numbers}]
    with pytest.raises(RecordError, match="say `best: 1`.*say `scores: k` instead"):
        ranks("{prompt: q, responses: r, ranks: k}", *rows)
    assert ranks("{prompt: q, responses: r, ranks: k, best: 1}", *rows) == [[1, 1, 2], numbers]


def test_ranks_of_a_part_or_with_ties_are_no_question() -> None:
    rows = [ROW | {"k": [1, 1, 3]}, ROW | {"k": [None, 2, 3]}, ROW | {"k": [1, None, 2]}]
    assert ranks("{prompt: q, responses: r, ranks: k}", *rows) == [[1, 1, 3], [None, 2, 3], [1, None, 2]]


def test_stars_of_a_long_table_are_no_ranks() -> None:
    rows = [{"q": "Open?", "a": "Yes.", "n": 5}, {"q": "Open?", "a": "No.", "n": 2}]
    with pytest.raises(RecordError, match="holds 5, 2 for the responses of one prompt"):
        ranks("{prompt: q, responses: a, ranks: n, group_by: q}", *rows)
