"""Sway: numbers from the literature and by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling.figures.suggestion_effect import SuggestedRanking, suggestion_effect  # noqa: E402


def group(shown: bool, *agreed: float, first: int = 0) -> list[SuggestedRanking]:
    return [SuggestedRanking(first + i, shown, a, a == 1.0) for i, a in enumerate(agreed)]


def test_newcombes_own_example() -> None:
    """56 of 70 against 48 of 80 (Newcombe 1998, Table II a, method 10): 0.2, 0.0524 to 0.3339."""
    found = suggestion_effect(
        group(True, *[1.0] * 56, *[0.0] * 14) + group(False, *[1.0] * 48, *[0.0] * 32, first=100)
    )
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))
    assert found.is_clear
    assert (found.shown.judgements, found.shown.tasks, found.shown.taken) == (70, 70, 56)


def test_wilsons_interval() -> None:
    """8 of 10: 0.4902 to 0.9433 (Wilson 1927, as binom.confint prints it)."""
    found = suggestion_effect(group(False, *[1.0] * 8, 0.0, 0.0)).hidden
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=5e-5), pytest.approx(0.9433, abs=5e-5))


def test_two_people_who_say_the_same_of_a_task_count_as_one() -> None:
    once = suggestion_effect(group(True, 1.0, 1.0, 0.0, 1.0)).shown
    twice = suggestion_effect(group(True, 1.0, 1.0, 0.0, 1.0) * 2).shown
    assert (twice.judgements, twice.tasks) == (8, 4)
    assert (twice.share, twice.low, twice.high) == pytest.approx((once.share, once.low, once.high))


def test_a_task_that_many_answered_weighs_no_more_than_it_knows() -> None:
    """Four say 0 of one task, one each says 1 of four: the variance, 5/64, is that of 3.2 answers."""
    found = suggestion_effect(group(True, 0.0) * 4 + group(True, 1.0, 1.0, 1.0, 1.0, first=1)).shown
    assert (found.judgements, found.tasks, found.share) == (8, 5, 0.5)
    assert found.low == pytest.approx(0.1307, abs=5e-5) and found.high == pytest.approx(1 - 0.1307, abs=5e-5)


def test_complete_agreement_in_few_tasks_is_not_certain() -> None:
    """All of 5: 0.5655 to 1 by Wilson. One that agrees a little less must not make it more certain."""
    assert suggestion_effect(group(True, *[1.0] * 5)).shown.low == pytest.approx(0.5655, abs=5e-5)
    nearly = suggestion_effect(group(True, *[1.0] * 4, 0.9)).shown
    assert nearly.share == pytest.approx(0.98) and nearly.low < 0.5655


def test_the_block_for_the_dashboard_says_what_is_known() -> None:
    from labeling.web.pages import _TEMPLATES

    def text(judgements: list[SuggestedRanking]) -> str:
        return " ".join(
            _TEMPLATES.get_template("_sway.html").render(sway=suggestion_effect(judgements)).split()
        )

    assert "there have to be answers" in text(group(True, 1.0, 0.5))
    clear = text(group(True, *[1.0] * 56, *[0.0] * 14) + group(False, *[1.0] * 48, *[0.0] * 32, first=100))
    assert "agree with it more often, by 20 points (95% interval 5 to 33)" in clear
    assert "<strong>80 %</strong>" in clear and "<strong>60 %</strong>" in clear
    few = group(True, 1.0, 0.0) + group(False, 0.0, 0.5, first=9)
    assert "It isn't certain that they do: agreement differs by 25 points" in text(few)


def test_without_a_group_there_is_no_difference() -> None:
    nothing = suggestion_effect([])
    assert (
        not nothing.met
        and nothing.difference is None
        and nothing.shown.share is None
        and not nothing.is_clear
    )
    assert suggestion_effect(group(True, 1.0)).difference is None
    changed = suggestion_effect([SuggestedRanking(1, True, 1.0, True, changed=True)])
    assert (changed.shown.changed, changed.shown.taken) == (1, 1)
