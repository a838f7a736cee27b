"""Who orders responses right: closed forms, planted people, and another library's numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from align.stats.bootstrap import Draws
from align.stats.habits import habits
from align.stats.rankings import comparisons
from align.stats.reliability import (
    Answer,
    Reliability,
    fit,
    majority_right,
    measurable,
    reliability,
    votes,
    weight_of,
)

# Sixty pairs, three labelers each, who are right with probabilities .92, .8, .7, .5 and .3; and what
# OneCoinDawidSkene of crowd-kit 1.4.2 says of them, each pair given in both orders (2000 rounds, tol 0).
SAID = {
    "ann": ".+--.-+.+...++---.-+.-.++-...+-.+.++.--.+.--...+--+...-++.+.",
    "bob": "-.--+-.++.--.....+-..+--...-...++-..-.-++..-+.++-..+---++++.",
    "cyd": "-+--..++.++-.+-..+.++....+-.--++..-++-...++.---....--..+..+-",
    "dan": "+...-..-.-+.-+++-+-++.-.+-+--....+-.-.+--+.-.+.-.-+..-+.-+.-",
    "eve": ".-..-++.--.+-..-+...+++-+.--+-+--+.+.+.+.-+.-++.+--+--...-.+",
}
CROWD_KIT = (1.0, 0.845228193, 0.689759133, 0.504102675, 0.282409218)


def said(known: int = 0) -> list[Answer]:
    """SAID as answers, with the first pairs known to be as ann has them or, without her, as bob has."""
    signs = [(who, pair, sign) for who, row in SAID.items() for pair, sign in enumerate(row) if sign != "."]
    found = [Answer(pair, (1, 2), (1, 2) if sign == "+" else (2, 1), who) for who, pair, sign in signs]
    return found + [Answer(pair, (1, 2), (1, 2), None) for pair in range(known)]


def planted(seed: int, accuracy: dict[str, float], tasks: int = 400, each: int = 3) -> list[Answer]:
    """Pairs whose right order is drawn, judged by `each` of the people, who err independently."""
    random = np.random.default_rng(seed)
    names, found = sorted(accuracy), []
    for task in range(tasks):
        turn = random.random() < 0.5
        for i in random.choice(len(names), each, replace=False):
            right = random.random() < accuracy[names[i]]
            found.append(Answer(task, (1, 2), (1, 2) if right == turn else (2, 1), names[i]))
    return found


def accuracies(found: Reliability) -> dict[str, float | None]:
    return {one.name: one.accuracy.value for one in found.labelers}


def test_it_is_what_crowd_kit_says() -> None:
    found = votes(said())
    start = np.full((1, 5), 0.75)
    fitted = fit(found.table, found.known, np.ones((1, 60)), start, 1e-12, prior=0)
    assert fitted[0].tolist() == pytest.approx(CROWD_KIT, abs=1e-7)


def test_from_exact_frequencies_come_exact_accuracies() -> None:
    """Three people's agreement has as many unknowns as equations."""
    right = np.array([0.9, 0.8, 0.6])
    rows = np.array(list(itertools.product((1.0, -1.0), repeat=3)))
    chances = [np.prod(np.where(rows == turn, right, 1 - right), axis=1) / 2 for turn in (1, -1)]
    fitted = fit(rows, np.zeros(8), np.array([sum(chances)]), np.full((1, 3), 0.75), 1e-13, prior=0)
    assert fitted[0].tolist() == pytest.approx(right.tolist(), abs=1e-9)


def test_where_the_order_is_known_it_is_a_share() -> None:
    """Seven right of ten, and the prior's two at everybody's share, (7 + 1) / (10 + 2)."""
    known = [Answer(i, (1, 2), (1, 2), None) for i in range(10)]
    one = [Answer(i, (1, 2), (1, 2) if i < 7 else (2, 1), "ann") for i in range(10)]
    (ann,) = reliability(votes([*known, *one])).labelers
    assert ann.accuracy.value == pytest.approx((7 + 2 * 8 / 12) / 12)
    assert (ann.accuracy.count, ann.accuracy.prompts) == (10, 10)


@pytest.mark.parametrize("seed", range(5))
def test_planted_people_are_found_within_their_intervals(seed: int) -> None:
    truth = {"ann": 0.95, "bob": 0.85, "cyd": 0.75, "dan": 0.85, "random": 0.5}
    found = reliability(votes(planted(seed, truth)))
    for one in found.labelers:
        assert one.accuracy.value == pytest.approx(truth[one.name], abs=0.08)
        assert one.at_chance == (one.name == "random") and not one.reversed
    assert found.one == pytest.approx(0.78, abs=0.03)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = {"ann": 0.9, "bob": 0.8, "cyd": 0.7, "dan": 0.5}
    inside = []
    for seed in range(60):
        for one in reliability(votes(planted(seed, truth, tasks=150)), draws=100).labelers:
            assert one.accuracy.low is not None and one.accuracy.high is not None
            inside.append(one.accuracy.low <= truth[one.name] <= one.accuracy.high)
    assert 0.90 <= np.mean(inside) <= 0.99


def test_who_orders_everything_the_wrong_way_round_is_told_apart_from_guessing() -> None:
    found = reliability(votes(planted(1, {"ann": 0.9, "bob": 0.9, "cyd": 0.8, "turned": 0.15})))
    assert {one.name for one in found.labelers if one.reversed} == {"turned"}
    assert not any(one.at_chance for one in found.labelers)
    assert [weight_of(a) for a in (0.15, 0.5)] == [0, 0]
    assert weight_of(0.75) == pytest.approx(math.log(3))
    assert weight_of(0.99) == weight_of(1.0) == pytest.approx(math.log(99))


def test_two_people_alone_cannot_be_told_apart_until_something_is_known() -> None:
    two = planted(0, {"ann": 0.9, "bob": 0.6}, tasks=300, each=2)
    found = reliability(votes(two))
    assert accuracies(found) == {"ann": None, "bob": None}
    assert not found.is_known and found.majority is None and found.pairs == 300
    # In a line, a with b and b with c, products are known and no factor; a circle of three has them all.
    line = np.array([[1.0, 1, 0], [0, 1, 1]])
    assert measurable(line, np.zeros(2)).tolist() == [False] * 3
    assert measurable(np.array([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]]), np.zeros(3)).all()
    assert measurable(line, np.array([0.0, 1])).all()
    apart = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    assert measurable(apart, np.array([0.0, 1])).tolist() == [False, False, True, True]


def test_known_orders_set_two_people_apart() -> None:
    truth = {"ann": 0.95, "bob": 0.6}
    random = np.random.default_rng(0)
    found = []
    for task in range(400):
        if task < 200:
            found.append(Answer(task, (1, 2), (1, 2), None))
        for name, right in truth.items():
            found.append(Answer(task, (1, 2), (1, 2) if random.random() < right else (2, 1), name))
    assert accuracies(reliability(votes(found))) == {
        name: pytest.approx(right, abs=0.06) for name, right in truth.items()
    }


def test_what_a_majority_is_worth() -> None:
    assert majority_right([0.8] * 3) == pytest.approx(0.8**3 + 3 * 0.8**2 * 0.2)  # Condorcet
    assert majority_right([0.8] * 2) == pytest.approx(0.8**2 + 0.8 * 0.2)  # an even split is a coin
    assert majority_right([0.9, 0.6, 0.6]) == pytest.approx(0.9 * (1 - 0.4**2) + 0.1 * 0.6**2)
    found = reliability(votes(planted(3, dict.fromkeys("abcde", 0.8), tasks=2000)))
    assert found.majority == pytest.approx(0.896, abs=0.02)
    assert found.one == pytest.approx(0.8, abs=0.02)


def test_answers_that_nobody_shares_and_ties_decide_nothing() -> None:
    alone = [Answer(0, (1, 2, 3), (1, 2, 3), "ann"), Answer(1, (1, 2), (1, 2), "bob")]
    found = reliability(votes(alone))
    assert (found.pairs, found.is_known) == (0, False)
    assert reliability(votes([])) == Reliability()
    tied = [Answer(0, (1, 2), (1, 1), name) for name in ("ann", "bob", "cyd")]
    assert not reliability(votes(tied)).is_known
    both = [Answer(0, (1, 2), ranks, "ann") for ranks in ((1, 2), (2, 1))]
    assert not reliability(votes(both)).pairs, "one person's two answers are no two people's"


def test_the_same_answers_in_another_order_give_the_same_numbers() -> None:
    """A response's key and its place in the record say nothing."""
    first = reliability(votes(said()))
    turned = [a._replace(responses=a.responses[::-1], ranks=a.ranks[::-1]) for a in said()[::-1]]
    again = reliability(votes(turned))
    assert [one.name for one in first.labelers] == [one.name for one in again.labelers]
    for one, other in zip(first.labelers, again.labelers, strict=True):
        assert one.accuracy.value == pytest.approx(other.accuracy.value, abs=1e-8)


def biased(seed: int, tasks: int = 300) -> list[Answer]:
    """Three steady people; pos takes what was shown first, long the longer one, each in 40% of the pairs."""
    random = np.random.default_rng(seed)
    found = []
    for task in range(tasks):
        for name in ("ann", "bob", "cyd", "long", "pos"):
            worth = np.array([0.0, 1, 2, 3])
            shown = tuple(int(i) for i in random.permutation(4))
            lengths = (30, 10, 40, 20)  # says nothing of which is better
            if name in ("ann", "bob", "cyd"):
                worth = worth + random.normal(0, 0.8, 4)
            elif random.random() < 0.4:
                worth = -np.array(shown if name == "pos" else [-x for x in lengths], float)
            ranks = tuple(int(r) + 1 for r in (-worth).argsort().argsort())
            if name == "bob" and random.random() < 0.2:
                ranks = tuple(min(r, 3) for r in ranks)  # ties the last two
            found.append(Answer(task, (1, 2, 3, 4), ranks, name, shown, lengths))
    return found


def test_mistakes_with_a_direction_are_told_by_their_direction() -> None:
    found = votes(biased(0))
    people = {one.name: one for one in habits(found, reliability(found, draws=0), Draws())}
    # In 40% of the tasks it is the first shown (100% instead of 50%), elsewhere what is right.
    assert people["pos"].first_shown.value == pytest.approx(0.2, abs=0.04)
    assert people["long"].longer.value == pytest.approx(0.2, abs=0.04)
    for name in ("ann", "bob", "cyd", "long"):
        e = people[name].first_shown
        assert e.low is not None and e.high is not None and e.low < 0.03 and e.high > -0.03
    assert people["bob"].ties.value == pytest.approx(0.2 / 6, abs=0.01)
    assert people["ann"].ties.value == pytest.approx(-0.2 / 6 / 4, abs=0.005)
    close, far = people["ann"].next_to.value, people["ann"].apart.value
    assert close is not None and far is not None and far > close + 0.05
    # Steps of 1, noise of 0.8 on both: a pair one step apart is right with Phi(1 / (0.8 sqrt 2)).
    assert close == pytest.approx(0.5 * (1 + math.erf(1 / 1.6)), abs=0.08)


WIDTH, PEOPLE = 30, [f"p{i}" for i in range(10)]  # of whom p0 and p1 order at random


def linear_team(
    random: np.random.Generator, tasks: int = 120
) -> tuple[np.ndarray, np.ndarray, list[Answer], list[Answer]]:
    """A direction, responses [tasks, 4, WIDTH], three rankings each, and these with two people at random."""
    direction, responses = random.normal(size=WIDTH), random.normal(size=(tasks, 4, WIDTH))
    clean, noisy = [], []
    for task in range(tasks):
        for i in random.choice(len(PEOPLE), 3, replace=False):
            seen = responses[task] @ direction + random.normal(0, 0.5, 4)
            right = Answer(
                task, (0, 1, 2, 3), tuple(int(r) + 1 for r in (-seen).argsort().argsort()), PEOPLE[i]
            )
            clean.append(right)
            drawn = tuple(int(r) + 1 for r in random.permutation(4))
            noisy.append(right._replace(ranks=drawn) if i < 2 else right)
    return direction, responses, clean, noisy


def bradley_terry(responses: np.ndarray, answers: list[Answer], weights: dict[str, float]) -> np.ndarray:
    """The linear scores [WIDTH] of least weighted loss, with a little ridge, by Newton's method."""
    rows = [
        (responses[a.prompt, i] - responses[a.prompt, j], weights[a.labeler or ""])
        for a in answers
        for i, j in comparisons(a.ranks)
    ]
    apart, weight = np.array([row for row, _ in rows]), np.array([w for _, w in rows])
    found = np.zeros(WIDTH)
    for _ in range(30):
        wrong = 1 / (1 + np.exp(apart @ found))
        slope = apart.T @ (weight * wrong) - found
        curve = (apart * (weight * wrong * (1 - wrong))[:, None]).T @ apart + np.eye(WIDTH)
        found = found + np.linalg.solve(curve, slope)
    return found


def test_weights_bring_back_what_random_people_cost() -> None:
    """Two of ten at random: nine tenths of the accuracy that a linear reward model loses come back."""
    lost, back = [], []
    for seed in range(5):
        direction, responses, clean, noisy = linear_team(np.random.default_rng(seed))
        alike = dict.fromkeys(PEOPLE, 1.0)
        found = reliability(votes(noisy), draws=0)
        weights = {one.name: weight_of(one.accuracy.value or 0.0) for one in found.labelers}
        arms = [(clean, alike), (noisy, alike), (noisy, weights)]
        scores = [bradley_terry(responses, *arm) for arm in arms]
        # Of two responses drawn alike, the share ordered right is 1 - angle / pi.
        cosines = [s @ direction / np.linalg.norm(s) / np.linalg.norm(direction) for s in scores]
        right = 1 - np.arccos(cosines) / np.pi
        lost.append(right[0] - right[1])
        back.append(right[2] - right[1])
    assert min(lost) > 0.02
    assert np.mean(back) >= 0.9 * np.mean(lost)
