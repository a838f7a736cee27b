"""What is counted of rankings, on cases small enough to count by hand."""

from __future__ import annotations

import random

import pytest

from align.check.result import Spread, spread
from align.stats.consistency import KeyedRanking, consistency, find_cycle
from align.stats.rankings import Wins, length_bias, length_wins


def said(
    ranks: list[int | None], who: str | None = None, place: str = "f:1", prompt: int = 1
) -> KeyedRanking:
    """A ranking of responses 10, 11, 12, …"""
    return KeyedRanking(prompt, tuple(range(10, 10 + len(ranks))), tuple(ranks), who, place)


def test_quantiles_are_values_that_occur() -> None:
    assert spread(range(100, 0, -1)) == Spread(50, 95, 100)
    assert spread([7]) == Spread(7, 7, 7)
    assert spread([1, 9]) == Spread(1, 9, 9)
    assert spread([]) is None


def test_the_longer_response_wins_loses_or_is_as_long() -> None:
    # 3 > 1 longer, 3 > 3 equal, 1 < 3 shorter; the unranked one takes no part.
    assert length_wins([([1, 2, 3, None], [3, 1, 3, 9])]) == Wins(longer=1, shorter=1, equal=1)
    assert length_wins([([1, 1], [3, 9])]) == Wins()


def test_a_length_only_model_is_fitted_on_training_and_measured_on_held_out() -> None:
    bias = length_bias(Wins(longer=2, shorter=8), Wins(longer=3, shorter=6, equal=1))
    assert bias is not None
    assert (bias.rule, bias.accuracy, bias.measured_on) == ("shorter", 0.65, "held_out")
    # Fitted on training: longer. It is wrong on held-out, and that is what counts.
    bias = length_bias(Wins(longer=8, shorter=2), Wins(longer=1, shorter=3))
    assert bias is not None and (bias.rule, bias.accuracy) == ("longer", 0.25)
    bias = length_bias(Wins(longer=3, shorter=1), Wins())
    assert bias is not None and (bias.accuracy, bias.measured_on) == (0.75, "train")
    assert length_bias(Wins(), Wins()) is None


def test_contradictions_count_pairs_not_records() -> None:
    found = consistency(
        [
            said([1, 2, 3], "ana", "a:1"),
            said([2, 1, 3], "ben", "a:2"),  # 10 and 11 the other way round; 12 last as before
            said([1, 2, None], "ana", "a:3"),
            said([2, 1], "ana", "a:9", prompt=2),  # another prompt: nothing to contradict
        ]
    )
    assert found.repeated_pairs == 3
    assert [(c.prompt, c.places) for c in found.contradictory] == [(1, ["a:1", "a:2"])]
    assert found.by == [("ana", "ben", 1)]
    assert found.self_contradictory == 0


def test_one_labeler_who_says_both_contradicts_themself() -> None:
    found = consistency([said([1, 2], "ana"), said([2, 1], "ana"), said([1, 1], "ben")])
    assert (len(found.contradictory), found.self_contradictory) == (1, 1)
    assert found.by == [("ana", "ana", 1)]
    unnamed = consistency([said([1, 2]), said([2, 1])])
    assert (len(unnamed.contradictory), unnamed.self_contradictory) == (1, 0)
    assert unnamed.by == [("unnamed", "unnamed", 1)]


def test_identical_responses_of_one_record_do_not_contradict() -> None:
    twice = KeyedRanking(1, (10, 10, 11), (1, 2, 3), None, "f:1")
    assert consistency([twice, twice]).contradictory == []


def test_agreement_is_between_different_labelers() -> None:
    found = consistency(
        [
            said([1, 2], "ana"),
            said([1, 2], "ana"),
            said([1, 2], "ben"),
            said([2, 1], "eva"),
            said([1, 1], "ida"),
        ]
    )
    # ana's two labels each meet ben (agree), eva (not), ida (tie); ben meets eva and ida, eva meets ida.
    assert (found.agreeing, found.disagreeing, found.one_tied, found.both_tied) == (2, 3, 4, 0)
    assert found.agreement == 0.4
    assert found.judged_twice == 1
    assert consistency([said([1, 2]), said([2, 1])]).agreement is None  # nobody is named


def test_agreement_equals_pair_by_pair_counting() -> None:
    draw = random.Random(0)
    labels = [
        said([draw.choice([1, 2]), draw.choice([1, 2]), draw.choice([1, 2, None])], draw.choice("abc"))
        for _ in range(40)
    ]
    agreeing = disagreeing = one_tied = both_tied = 0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        votes = [
            ((r[i] > r[j]) - (r[i] < r[j]), label.labeler)
            for label in labels
            if (r := label.ranks)[i] is not None and r[j] is not None
        ]
        for a in range(len(votes)):
            for b in range(a):
                (s, who), (t, other) = votes[a], votes[b]
                if who != other:
                    agreeing += s == t != 0
                    disagreeing += s == -t != 0
                    both_tied += s == t == 0
                    one_tied += (s == 0) != (t == 0)
    found = consistency(labels)
    assert (found.agreeing, found.disagreeing) == (agreeing, disagreeing)
    assert (found.one_tied, found.both_tied) == (one_tied, both_tied)


def test_three_pairs_that_go_round_are_a_cycle() -> None:
    def pair(better: int, worse: int, place: str) -> KeyedRanking:
        return KeyedRanking(1, (better, worse), (1, 2), None, place)

    chain = [pair(10, 11, "a:1"), pair(11, 12, "a:2"), pair(12, 13, "a:3")]
    assert consistency(chain).cycles == []
    (cycle,) = consistency([*chain, pair(13, 11, "a:4")]).cycles
    assert (cycle.prompt, cycle.responses, sorted(cycle.places)) == (1, 3, ["a:2", "a:3", "a:4"])
    # Two against one: the majority says 11 > 13, and the circle is open again.
    assert consistency([*chain, pair(13, 11, "a:4"), *[pair(11, 13, "a:5")] * 2]).cycles == []


@pytest.mark.parametrize("seed", range(30))
def test_a_cycle_is_found_exactly_where_no_order_fits(seed: int) -> None:
    draw = random.Random(seed)
    beats: dict[int, list[int]] = {}
    for i in range(7):
        for j in range(i):
            if draw.random() < 0.35:
                a, b = (i, j) if draw.random() < 0.8 else (j, i)
                beats.setdefault(a, []).append(b)

    def reaches(start: int, goal: int, seen: set[int]) -> bool:
        return any(
            b == goal or (b not in seen and reaches(b, goal, seen | {b})) for b in beats.get(start, ())
        )

    cycle = find_cycle(beats)
    assert bool(cycle) == any(reaches(node, node, set()) for node in beats)
    for node, following in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        assert following in beats[node]
    assert len(set(cycle)) == len(cycle)
