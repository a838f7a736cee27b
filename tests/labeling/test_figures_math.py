"""The figures' mathematics against hand sums, published examples, and other libraries."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

krippendorff = pytest.importorskip("krippendorff", reason="needs the `labeling` extra")
evalica = pytest.importorskip("evalica", reason="needs the `labeling` extra")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy import stats  # noqa: E402

from align.stats.bootstrap import Draws, Tally  # noqa: E402
from labeling.figures.rankings import (  # noqa: E402
    PersonsRanking,
    add_gold,
    add_leave_one_out,
    add_pairwise,
    alpha,
    alpha_of_ranks,
    couples,
    mean_ranks,
)
from labeling.figures.ratings import PolicyVerdict, policies  # noqa: E402

# Four observers, twelve units, from Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, part D.
PUBLISHED = [
    [1, 1, None, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [None, 5, 5, 5],
    [None, None, 1, 1],
    [None, 3, None, None],
]


def one(task: int, person: int, *ranks: int | None, prompt: int | None = None) -> PersonsRanking:
    return PersonsRanking(task, task if prompt is None else prompt, person, ranks)


def drawn(
    seed: int, people: int = 3, tasks: int = 40, size: int = 4, ties: bool = True
) -> list[PersonsRanking]:
    """Rankings of a team that agrees a little."""
    chance = random.Random(seed)
    found = []
    for task in range(tasks):
        worth = [chance.gauss(0, 1) for _ in range(size)]
        for person in range(people):
            seen = [value + chance.gauss(0, 1) for value in worth]
            if ties:
                seen = [round(value) for value in seen]
            places = sorted(set(seen), reverse=True)
            found.append(one(task, person, *(places.index(value) + 1 for value in seen)))
    return found


def agreement(rankings: list[PersonsRanking]) -> dict[Any, Any]:
    tally = Tally(max(ranking.prompt for ranking in rankings) + 1)
    add_pairwise(tally, "r", couples(rankings))
    add_leave_one_out(tally, rankings)
    return tally.estimates(Draws())


def test_agreement_is_counted_by_hand() -> None:
    rankings = [
        one(0, 1, 1, 2, 3),  # with the next one: 2 of 3 pairs alike, tau 1/3
        one(0, 2, 1, 3, 2),
        one(1, 1, 1, 1, 2),  # with the next one: one pair, a tie against an order; tau says nothing
        one(1, 2, 1, 2, None),
        one(2, 1, 1, 2, 3),  # alone
    ]
    found = agreement(rankings)
    assert found["r", "all"].value == pytest.approx((2 + 0.5) / (3 + 1))
    assert (found["r", "all"].count, found["r", "all"].prompts) == (4, 2)
    assert found["r", "decided"].value == pytest.approx(2 / 3)
    assert found["r", "tau"].value == pytest.approx(1 / 3)
    assert found["others", 1].value == found["others", 2].value == pytest.approx(2.5 / 4)


def test_a_task_counts_once_however_many_did_it() -> None:
    three = [one(0, person, 1, 2) for person in (1, 2, 3)]  # three couples, all alike
    two = [one(1, 1, 1, 2), one(1, 2, 2, 1)]  # one couple, not alike
    found = agreement(three + two)["r", "all"]
    assert (found.value, found.count) == (0.5, 4)


def test_each_person_is_held_against_the_majority_of_the_others() -> None:
    rankings = [one(0, 1, 1, 2), one(0, 2, 1, 2), one(0, 3, 2, 1), one(0, 4, 1, 1)]
    found = agreement(rankings)
    # The others of 1 and 2 are split, 3 stands against two, 4 ties where most do not.
    assert [found["others", person].value for person in (1, 2, 3, 4)] == [0.5, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("ties", [True, False])
def test_tau_is_scipys(ties: bool) -> None:
    rankings = drawn(3, people=2, tasks=200, size=5, ties=ties)
    found = couples(rankings)
    pairs = zip(rankings[::2], rankings[1::2], strict=True)
    wanted = [stats.kendalltau(a.ranks, b.ranks).statistic for a, b in pairs]
    assert np.isnan(wanted).any() == ties
    np.testing.assert_allclose(found.tau, wanted, atol=1e-12)


def test_tau_of_partial_rankings_is_that_of_what_both_ranked() -> None:
    found = couples([one(0, 1, 4, 1, None, 2, 3), one(0, 2, 1, 2, 3, None, 4)])
    assert found.tau[0] == pytest.approx(stats.kendalltau([4, 1, 3], [1, 2, 4]).statistic)


def test_gold_accuracy_is_counted_by_hand() -> None:
    tally = Tally(2)
    gold = {0: [1, 2, 3], 1: [1, 1, None]}
    rankings = [
        one(0, 1, 1, 2, 3),
        one(1, 1, 5, 5, 1),
        one(0, 2, 2, 1, 3),
        one(1, 2, 1, 2, None),
        one(9, 2, 1, 2),
    ]
    add_gold(tally, rankings, gold)
    found = tally.estimates(Draws())
    assert found["gold", 1].value == 1.0 and found["gold", 1].count == 4
    assert found["gold", 2].value == pytest.approx((2 + 0.5) / 4)


def test_alpha_is_the_published_one() -> None:
    units = [[value for value in unit if value is not None] for unit in PUBLISHED]
    assert alpha(units) == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize("size", [2, 4, 9])
def test_alpha_of_ranks_is_that_of_another_library(size: int) -> None:
    rankings = drawn(size, size=size)
    table: dict[int, list[float]] = {person: [] for person in range(3)}
    for ranking in rankings:
        table[ranking.person] += list(stats.rankdata(ranking.ranks))
    wanted = evalica.alpha(pd.DataFrame(table).T, distance="ordinal").alpha
    assert alpha_of_ranks(rankings) == pytest.approx(wanted, abs=1e-9)


def test_alpha_weighs_lengths_by_what_was_ranked_and_leaves_out_partial_rankings() -> None:
    short, long = drawn(1, size=2), drawn(2, size=5, people=2)
    long = [ranking._replace(task=ranking.task + 100) for ranking in long]
    partial = [one(500, 1, 1, None), one(500, 2, 2, 1)]
    sizes = (3 * 40 * 2, 2 * 40 * 5)
    parts = (alpha_of_ranks(short) or 0.0, alpha_of_ranks(long) or 0.0)
    wanted = (parts[0] * sizes[0] + parts[1] * sizes[1]) / sum(sizes)
    assert alpha_of_ranks([*short, *long, *partial]) == pytest.approx(wanted)


def test_mean_ranks_are_scipys() -> None:
    rankings = [ranking.ranks for ranking in drawn(5, size=6)]
    np.testing.assert_allclose(mean_ranks(rankings), stats.rankdata(rankings, axis=1))


@pytest.mark.parametrize("rankings", [[], [one(0, 1, 1, 2)], [one(0, 1, 1, 1), one(0, 2, 1, 1)]])
def test_alpha_of_nothing_is_unknown(rankings: list[PersonsRanking]) -> None:
    assert alpha_of_ranks(rankings) is None


def shares(values: list[float], copies: int = 1) -> Any:
    tally = Tally(len(values))
    at = np.repeat(np.arange(len(values)), copies)
    tally.add("x", at, np.repeat(values, copies), np.ones(len(at)), len(at))
    return tally.estimates(Draws())["x"]


def test_intervals_are_as_wide_as_theory_has_them() -> None:
    values = [1.0] * 280 + [0.0] * 120
    reach = 1.96 * math.sqrt(0.7 * 0.3 / 400)
    found = shares(values)
    assert found.value == pytest.approx(0.7)
    assert found.high - found.low == pytest.approx(2 * reach, rel=0.1)
    again = shares(values, copies=10)
    assert (again.low, again.high) == (found.low, found.high), "what one prompt repeats says nothing new"


def test_no_spread_is_no_certainty() -> None:
    found = shares([1.0] * 8)
    low = stats.binomtest(8, 8).proportion_ci(method="exact").low
    assert (found.low, found.high) == (pytest.approx(low), 1.0)
    alone = shares([1.0])
    assert (alone.value, alone.low, alone.high) == (1.0, None, None)


def compared(first: str, second: str, /, **verdicts: int) -> list[PolicyVerdict]:
    found = [verdict for verdict, number in verdicts.items() for _ in range(number)]
    return [PolicyVerdict(i, first, second, verdict) for i, verdict in enumerate(found)]


def test_two_policies_are_rated_by_their_share_of_wins() -> None:
    found = policies(compared("new", "old", first=30, second=10, tie=12, both_bad=8))
    (pair,) = found.pairings
    assert (pair.first, pair.wins, pair.ties, pair.both_bad, pair.losses) == ("new", 30, 12, 8, 10)
    assert pair.win_rate.value == pytest.approx((30 + 0.5 * 20) / 60)
    difference = 400 * math.log10(40 / 20)
    assert [p.name for p in found.policies] == ["new", "old"]
    ratings = [p.rating.value for p in found.policies]
    assert ratings == pytest.approx([difference / 2, -difference / 2], abs=1e-3)


def test_the_better_policy_comes_first_whatever_their_names_and_sides() -> None:
    found = policies([*compared("a", "z", second=6, first=2), *compared("z", "a", first=5, second=3)])
    (pair,) = found.pairings
    assert (pair.first, pair.wins, pair.losses) == ("z", 11, 5)
    assert pair.win_rate.value == pytest.approx(11 / 16)
    assert found.policies[0].name == "z" and found.policies[0].comparisons == 16


def test_known_strengths_are_found_again() -> None:
    chance = random.Random(4)
    strengths = {"sft": 0.0, "one": 0.5, "two": 1.2, "three": 1.3}
    found = []
    for prompt in range(1500):
        first, second = chance.sample(sorted(strengths), 2)
        wins = chance.random() < 1 / (1 + math.exp(strengths[second] - strengths[first]))
        found.append(PolicyVerdict(prompt, first, second, "first" if wins else "second"))
    rows = policies(found).policies
    middle = sum(strengths.values()) / 4
    for row in rows:
        true = 400 * (strengths[row.name] - middle) / math.log(10)
        assert row.rating.value == pytest.approx(true, abs=40)
        assert row.rating.low < true < row.rating.high
        assert 20 < row.rating.high - row.rating.low < 100


def test_a_policy_that_won_everything_has_no_rating_and_says_so() -> None:
    found = policies(compared("a", "b", first=9))
    assert [p.rating.value for p in found.policies] == [None, None]
    assert found.unrated is not None and found.pairings[0].win_rate.value == 1.0
    nearly = policies(compared("a", "b", first=9, second=1))  # most draws lack the one that lost
    assert nearly.policies[0].rating.value == pytest.approx(200 * math.log10(9), abs=1e-3)
    assert nearly.policies[0].rating.low is None
    apart = policies([*compared("a", "b", first=2, second=2), *compared("c", "d", first=2, second=2)])
    assert apart.unrated is not None
    assert policies([]).policies == []
