"""RewardBench's rules, against numbers of its own code (allenai/reward-bench: utils.py, constants.py)."""

from __future__ import annotations

import pytest

from align.stats.reward_bench import (
    SECTIONS,
    TiedPrompt,
    best_of_k,
    chosen_wins,
    tie_parts,
    version_1,
    version_2,
)

TIED = [
    ("ref:0", 1, [1.09, 1.25, -0.93, 0.99]),
    ("tied:0", 3, [1.4, 1.4, 2.26, 0.09, -0.03, 0.44, 0.68]),
    ("ref:1", 1, [0.97, 0.59, -0.97, -0.37]),
    ("tied:1", 3, [1.32, 0.97, 0.9, -0.98, -0.14, -0.1, -0.19]),
    ("ref:2", 1, [1.07, -1.34, -0.08, 0.24]),
    ("tied:2", 3, [1.8, 1.16, 1.34, -1.21, -0.3, -1.32, -0.85]),
    ("ref:3", 1, [2.1, -2.2, 0.8, 0.33]),
    ("tied:3", 3, [1.38, 1.68, 1.71, 0.63, -0.14, -0.36, -0.36]),
    ("ref:4", 1, [0.01, -0.04, -0.79, 1.07]),
    ("tied:4", 3, [0.75, 1.06, 1.12, -1.26, 1.14, -1.45, -0.17]),
    ("ref:5", 1, [0.47, 1.66, -1.99, 1.07]),
    ("tied:5", 3, [1.21, 1.44, 1.23, 0.38, -0.68, -0.05, 0.21]),
]
PROMPTS = [
    TiedPrompt(name.split(":")[0], int(name.split(":")[1]), scores[:right], scores[right:])
    for name, right, scores in TIED
]


def test_the_score_of_ties_is_theirs() -> None:
    found = version_2({}, PROMPTS)
    assert found.score.value == pytest.approx(0.5970326214011636, abs=1e-12)  # process_single_model
    assert found.score.low is not None and found.score.high is not None
    assert found.score.low < 0.597 < found.score.high


def test_ties_without_a_partner_and_without_a_spread_give_no_margin() -> None:
    parts = tie_parts([TiedPrompt("ref", 0, [1.0], [0.0]), TiedPrompt("tied", 1, [2.0, 2.0], [0.0])])
    assert parts["tied"].tolist() == [1.0] and not len(parts["preferred"])
    flat = tie_parts([TiedPrompt("ref", 0, [1.0], [1.0]), TiedPrompt("tied", 0, [1.0, 1.0], [1.0])])
    assert (flat["preferred"].tolist(), flat["margin"].tolist()) == ([0.0], [0.0])  # 0 / 0, as in their code


def test_sections_weigh_their_subsets_as_theirs_do() -> None:
    accuracies = {subset: None for weights in SECTIONS.values() for subset in weights}
    # (i * 37 % 10) / 10 in the order of their EXAMPLE_COUNTS, as ten results each.
    order = ["alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"]
    order += ["mt-bench-hard", "math-prm", "refusals-dangerous", "refusals-offensive", "llmbar-natural"]
    order += [f"llmbar-adver-{name}" for name in ("neighbor", "GPTInst", "GPTOut", "manual")]
    order += ["xstest-should-refuse", "xstest-should-respond", "donotanswer"]
    order += [f"hep-{name}" for name in ("cpp", "go", "java", "js", "python", "rust")]
    assert set(order) == set(accuracies)
    results = {s: [1.0] * (i * 37 % 10) + [0.0] * (10 - i * 37 % 10) for i, s in enumerate(order)}
    found = version_1(results)
    theirs = {  # calculate_scores_per_section
        "Chat": 0.3891061452513967,
        "Chat Hard": 0.2989035087719298,
        "Safety": 0.5748648648648649,
        "Reasoning": 0.3416666666666667,
    }
    assert {name: one.value for name, one in found.sections.items()} == pytest.approx(theirs)
    assert found.score.value == pytest.approx(sum(theirs.values()) / 4)


def test_a_subset_of_ones_own_stands_for_itself() -> None:
    found = version_1({"mine": [1.0, 0.0, 1.0, 1.0]})
    assert found.subsets["mine"].value == 0.75 and found.sections == {} and found.score.value is None
    whole = version_2({"mine": [1.0, 0.0], "Math": [0.25, 0.25, 1.0]}, [])
    assert whole.score.value == pytest.approx((0.5 + 0.5) / 2)


def test_equal_scores_are_wrong_in_version_1_and_shared_in_version_2() -> None:
    assert [chosen_wins(1, 0), chosen_wins(0, 0), chosen_wins(0, 1)] == [1.0, 0.0, 0.0]
    assert best_of_k([2.0, 2.0, 1.0, 2.0]) == pytest.approx(1 / 3)
    assert best_of_k([1.0, 2.0]) == 0.0 and best_of_k([3.0, 2.0]) == 1.0


def test_one_row_has_no_interval() -> None:
    found = version_1({"mine": [1.0]}).subsets["mine"]
    assert (found.low, found.high, found.count) == (None, None, 1)


def test_a_subset_that_is_all_right_is_not_called_certain() -> None:
    """Clopper and Pearson's 95% interval for 20 of 20 (scipy.stats.binomtest(20, 20).proportion_ci())."""
    found = version_1({"donotanswer": [1.0] * 20}).subsets["donotanswer"]
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(0.8315665, abs=1e-6)
