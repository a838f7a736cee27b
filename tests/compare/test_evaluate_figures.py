"""Figures from rows, where some scores are no numbers and a policy is far away."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from align.compare import figures
from align.compare.figures import Answers
from align.compare.judged import ratings_of
from align.compare.show import show
from align.evaluation.reward import plain


def row(score: float | None, text: str = "a b", kl: float = 0.0) -> dict[str, Any]:
    return {
        "response": text,
        "ended": True,
        "score": score,
        "tokens": 2,
        "entropy": 1.0,
        "kl": kl,
        "kl_exact": kl,
    }


def test_scores_that_are_no_numbers_are_left_out_and_counted() -> None:
    first = {"sft": [row(1.0), row(2.0), row(3.0)], "ppo": [row(None), row(3.0), row(2.0)]}
    answers = Answers(first, [], ["score"], "sft")
    (won,) = figures.win_rates(answers)
    found = won["win_rate"]
    assert (found.rate.value, found.wins, found.ties, found.losses) == (0.5, 1, 0, 1)
    assert figures.unknown_scores(answers) == {"score": (1, 6)}
    pytest.importorskip("evalica", reason="needs the `labeling` extra")
    rating = ratings_of(answers, lambda _: None)["score"]["policies"]
    assert rating["ppo"].value == pytest.approx(rating["sft"].value, abs=1e-6)  # one win each


def test_a_policy_thousands_of_nats_away_is_compared_with_the_best_of_all() -> None:
    first = {"sft": [row(1.0), row(2.0)], "ppo": [row(3.0, kl=2000.0), row(4.0, kl=2000.0)]}
    best = [row(1.0), row(1.5), row(2.0), row(1.0)]
    found = figures.best_of_n(Answers(first, best, ["score"], "sft"), {"ppo": 2000.0})
    assert found is not None
    (one,) = found["policies"]
    assert one["beyond"] and one["n"] == 2.0 and one["figures"]["score"].value == 1.75
    assert plain(found)["policies"][0]["n_wanted"] is None


def test_a_win_rate_of_nothing_says_why() -> None:
    first = {"sft": [row(None)], "ppo": [row(1.0)]}
    (won,) = figures.win_rates(Answers(first, [], ["score"], "sft"))
    assert won["win_rate"].rate.value is None and won["win_rate"].why == "no prompt has a verdict"


def test_a_task_without_a_number_is_shown_as_such() -> None:
    task = {"value": None, "se": None}
    document = {
        "prompts": 1,
        "policies": {},
        "names": [],
        "wins": [],
        "lm_eval": {"sft": {"t": {"acc": task}}},
    }
    show(document, Console(quiet=True))
