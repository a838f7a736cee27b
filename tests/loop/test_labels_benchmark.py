"""The benchmark of what people are asked for: rules, fit and counts against numbers by hand."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from align.records import Ranking


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("labels")


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("label_features")


def a_round(labels: Any, responses: list[list[list[float]]], count: int, **given: Any) -> Any:
    """Tasks with these vectors of responses, the first of each the best; the weights are (1, 0)."""
    vectors = np.array([one for task in responses for one in task])
    tasks, row = [], 0
    for task in responses:
        rows = tuple(range(row, row + len(task)))
        tasks.append(labels.Task(rows, tuple(float(i) for i in range(len(task))), str(row)))
        row += len(task)
    model = labels.Model(np.array([1.0, 0.0]), given.pop("covariance", np.eye(2)))
    left = np.arange(given.pop("labelled", 0), len(tasks))
    members = given.pop("members", [])
    return labels.Round(labels.pool_of(vectors, tasks), model, members, left, count, np.random.default_rng(0))


def test_rules_that_read_scores_order_by_hand(labels: Any) -> None:
    # Scores, so gaps of the two best 1, 0.1, 3 and spreads 9, 0.1, 3.
    tasks = [[[0.0, 0], [1.0, 0], [-8.0, 0]], [[5.0, 0], [5.1, 0]], [[0.0, 0], [-3.0, 0]]]
    now = a_round(labels, tasks, 3)
    assert labels.RULES["margin"](now).tolist() == [1, 0, 2]
    assert labels.RULES["gap"](now).tolist() == [2, 0, 1]
    assert labels.RULES["spread"](now).tolist() == [0, 2, 1]
    later = a_round(labels, tasks, 1, labelled=1)
    assert labels.RULES["spread"](later).tolist() == [2]  # the first has its label
    assert sorted(labels.RULES["random"](now).tolist()) == [0, 1, 2]


def test_disagreement_is_where_members_differ(labels: Any) -> None:
    tasks = [[[1.0, 0], [0.0, 0]], [[0.0, 1.0], [0.0, 0]]]
    members = [labels.Model(np.array([2.0, side]), np.eye(2)) for side in (-1.0, 1.0)]
    now = a_round(labels, tasks, 1, members=members)
    assert labels.RULES["disagreement"](now).tolist() == [1]  # both are sure of the first task


def test_information_weighs_doubt_by_what_is_unknown_of_the_direction(labels: Any) -> None:
    three = math.log(3)  # P = 3/4: p (1 - p) = 3/16, times log(3)² = 0.226
    tasks = [[[three, 0], [0, 0]], [[0, 1.0], [0, 0]]]  # the second: 1/4
    assert labels.RULES["information"](a_round(labels, tasks, 1)).tolist() == [1]
    known = np.diag([1.0, 0.9])  # the second: 0.225
    assert labels.RULES["information"](a_round(labels, tasks, 1, covariance=known)).tolist() == [0]


def test_a_design_does_not_ask_the_same_twice(labels: Any) -> None:
    # Alone 1/4 · 4, 1/4 · 3.61 and 1/4 · 1. After the first the second tells 0.9025 / (1 + 1) = 0.451.
    tasks = [[[0, 2.0], [0, 0]], [[0, 1.9], [0, 0]], [[math.log(3), 3.0], [0, 3.0]]]
    now = a_round(labels, tasks, 2, covariance=np.diag([3.0, 1.0]))  # the third: 0.226 · 3 = 0.679
    assert labels.RULES["information"](now).tolist() == [0, 1]
    assert labels.RULES["design"](now).tolist() == [0, 2]


def test_the_fit_is_where_the_slope_is_zero(labels: Any) -> None:
    """One pair that is 1 apart: sigmoid(-w) = ridge · w, which w = log 3 solves for ridge = 1/4 / log 3."""
    ridge = 0.25 / math.log(3)
    model = labels.fit(np.array([[1.0]]), np.array([1.0]), ridge)
    assert model.weights == pytest.approx([math.log(3)])
    assert model.covariance[0, 0] == pytest.approx(1 / (3 / 16 + ridge))


def test_accuracy_is_a_mean_over_tasks_of_shares_of_pairs(labels: Any) -> None:
    now = a_round(labels, [[[3.0, 0], [1.0, 0], [2.0, 0]], [[0.0, 0], [1.0, 0]], [[1.0, 0], [1.0, 1]]], 1)
    assert labels.accuracy(now.pool, np.array([1.0, 0.0])) == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)


def test_labels_are_enough_from_where_the_curve_stays(labels: Any) -> None:
    whole, sizes = [0.70, 0.60], [10, 20, 30, 40]
    assert labels.labels_needed([[0.6, 0.7, 0.697, 0.7], [0.6, 0.5, 0.597, 0.6]], whole, sizes) == 30
    assert labels.labels_needed([[0.72, 0.6, 0.6, 0.7], [0.62, 0.5, 0.5, 0.6]], whole, sizes) == 40


def test_an_interval_is_students(labels: Any) -> None:
    mean, half = labels.interval([1.0, 2.0, 3.0, 4.0, 5.0])  # deviation sqrt(2.5), t = 2.776 of 4 degrees
    assert (mean, half) == (3.0, pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=2e-3))


def test_people_who_ranked_the_same_are_one_task(features: Any) -> None:
    judged = [
        ((0, 1), (1, 2)),
        ((1, 0), (2, 1)),
        ((0, 1), (2, 1)),
        ((2, 3), (1, 1)),
        ((4, 5, 6), (2, None, 1)),
    ]
    tasks = features.merged((one, "g") for one in judged)
    assert [(task.rows, task.ranks, task.pairs) for task in tasks] == [
        ((0, 1), (4 / 3, 5 / 3), [(0, 1)]),
        ((4, 6), (2, 1), [(6, 4)]),
    ]


def test_the_first_tasks_come_with_all_their_rankings(features: Any) -> None:
    one, two = (Ranking(name, ("x", "y"), (1, 2)) for name in "ab")
    turned = Ranking("a", ("y", "x"), (1, 2))
    assert features.first_tasks([one, two, turned], 1) == [one, turned]


def test_principal_directions_are_those_of_the_largest_spread(labels: Any) -> None:
    draw = np.random.default_rng(0)
    turn, _ = np.linalg.qr(draw.normal(size=(40, 40)))
    rows = draw.normal(size=(500, 40)) * np.where(np.arange(40) < 3, 10.0, 0.1) @ turn
    found = labels.principal(rows, 3)
    assert found.shape == (40, 3) and found.T @ found == pytest.approx(np.eye(3), abs=1e-6)
    assert np.linalg.norm(turn[:3] @ found) ** 2 == pytest.approx(3, abs=1e-2)  # the same subspace


def test_a_conversation_is_on_one_side(labels: Any) -> None:
    tasks = [labels.Task((i, i + 1), (1, 2), str(i % 10)) for i in range(100)]
    pool, held_out = labels.split(tasks, 0)
    assert len(held_out) == 30 and not {t.group for t in pool} & {t.group for t in held_out}
    assert labels.split(tasks, 0) == (pool, held_out) != labels.split(tasks, 1)


def test_features_are_the_states_of_prompt_and_response_alone(
    features: Any, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt": "the film is", "responses": [" good", " dull and old", " x"], "ranks": [1, 2, 2]},
        {"prompt": [{"role": "user", "content": "what"}], "responses": [" a plot", " b"], "ranks": [2, 1]},
        {"prompt": "what", "responses": [" c", " b"], "ranks": [2, 1]},  # the same prompt
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(features, "DTYPE", "float32")
    monkeypatch.setitem(features.FILES, "made", [("r.jsonl", None)])
    found = features.dataset("made", tmp_path, tiny_base, tmp_path / "kept")
    assert [task.rows for task in found.tasks] == [(0, 1, 2), (3, 4), (4, 5)]

    from align.data.template import Template
    from align.models.base import find_base
    from align.recipe.sections import Base

    base = find_base(Base(name=str(tiny_base), dtype="float32"))
    template, model = Template(base.tokenizer, "chat"), base.load_model(torch.device("cpu"))
    prompt, response = template.prompt_ids("the film is"), template.response_ids(" dull and old")
    with torch.no_grad():
        states = model(torch.tensor([prompt + response]), output_hidden_states=True).hidden_states
    own = [states[layer][0, len(prompt) :] for layer in (1, 2)]
    expected = torch.cat([part for one in own for part in (one[-1], one.mean(0))])
    assert found.features[1] == pytest.approx(expected.numpy(), abs=2e-3)  # they are kept in half precision
    assert found.tokens[1] == len(response)
    again = features.dataset("made", tmp_path, tiny_base, tmp_path / "kept")
    assert np.array_equal(again.features, found.features)


def test_a_pool_that_is_easy_is_learned(labels: Any, features: Any) -> None:
    """Planted worths along one direction: every rule ends with the whole pool's model."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(120, 6)).astype(np.float32)
    tasks = [
        labels.Task((i, i + 1), tuple((-vectors[i : i + 2, 0]).argsort().argsort().tolist()), str(i))
        for i in range(0, 120, 2)
    ]
    found = labels.one_seed(features.Dataset(vectors, np.ones(120, int), tasks), 0, list(labels.RULES))
    ends = {rule: curve[-1] for rule, curve in found["curves"].items()}
    assert len(set(ends.values())) == 1 and ends["random"] > 0.8
    assert found["longer"] == 0.5 and (found["pool"], found["held out"]) == (42, 18)
    assert "| `design` |" in labels.table("made", [found, found])
    drawn = labels.figure({"made": [found], "other": [found]})
    assert drawn.count("<svg ") == 3 and drawn.count('class="line') >= 10


def test_a_rule_that_can_help_is_seen_to(labels: Any) -> None:
    """Where labels are right and most of the pool tells the same, what is unknown has to come first."""
    found = labels.one_seed(labels.planted(), 0, ["random", "information", "disagreement"])
    curves = found["curves"]
    half = labels.SHARES.index(0.5)
    for rule in ("information", "disagreement"):
        assert curves[rule][half] > curves["random"][half] + 0.01
        assert curves[rule][half] > curves[rule][-1] - 0.02
