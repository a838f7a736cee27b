"""Rankings weigh in the reward model by their labelers' reliability: how much, told, and always the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import words, write_jsonl

from align.data.labeler_weights import weights_by
from align.errors import UserError
from align.objectives.bradley_terry import batch_loss, ranking_loss
from align.recipe.load import load_recipe
from align.stages import rm, sft
from align.stats.estimate import Estimate
from align.stats.reliability import LabelerReliability, Reliability

BEST_FIRST = [" good", " old and tired", " dull"]


def team_rows(people: dict[str, str], prompts: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Everybody ranks everything: right, at random, or the wrong way round."""
    chance = random.Random(seed)
    openings = [f"the {a} {b}" for a in words(20) for b in ("is", "was", "and")][:prompts]
    rows = []
    for prompt in openings:
        for name, how in people.items():
            ranks = {"right": [1, 2, 3], "turned": [3, 2, 1], "random": chance.sample([1, 2, 3], 3)}[how]
            if how == "right" and chance.random() < 0.2:  # nobody is always right
                ranks = [2, 1, 3]
            rows.append({"prompt": prompt, "responses": BEST_FIRST, "ranks": ranks, "labeler": name})
    return rows


TEAM = {"ann": "right", "bob": "right", "cyd": "right", "dan": "random", "eve": "turned"}


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    path = tiny_recipe(sft={"steps": 2})
    write_jsonl(tmp_path / "rankings.jsonl", team_rows(TEAM))
    raw = json.loads(path.read_text())
    raw["data"]["rankings"]["weight_by"] = "reliability"
    path.write_text(json.dumps(raw))
    sft.run(load_recipe(path))
    return path


def manifest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path.parent / "runs/tiny/rm/manifest.json").read_text())
    return found


def test_each_labelers_weight_is_told_written_and_part_of_what_the_stage_is(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rm.run(load_recipe(recipe))
    said = capsys.readouterr().out
    weights = json.loads(manifest(recipe)["data"]["labeler_weights"])
    assert weights["dan"] < 0.35 and weights["eve"] == 0
    assert all(weights[name] > 1.2 for name in ("ann", "bob", "cyd"))
    assert "5 labelers; a ranking weighs by its labeler's reliability a" in said
    assert f"ann: weight {weights['ann']:g}" in said
    assert "eve: weight 0 " in said and "left out, not turned round" in said
    assert said.index("ann: weight") < said.index("rm is finished")
    written = json.loads((recipe.parent / "runs/tiny/rm/labelers.json").read_text())
    by_name = {one["name"]: one for one in written["labelers"]}
    assert by_name["dan"]["weight"] == weights["dan"]
    assert by_name["dan"]["accuracy"]["low"] < 0.5 < by_name["dan"]["accuracy"]["high"]
    rankings = sum(one["rankings"] for one in by_name.values())
    mean = sum(one["weight"] * one["rankings"] for one in by_name.values()) / rankings
    assert mean == pytest.approx(1, abs=1e-3)


def test_a_stage_that_has_begun_refuses_other_weights(recipe: Path) -> None:
    rm.run(load_recipe(recipe))
    with pytest.raises(UserError, match="data.labeler_weights: was .*ann.*, is not there"):
        rm.run(load_recipe(recipe, ["data.rankings.weight_by=null"]))
    rm.run(load_recipe(recipe))  # the same line again finds it finished


def test_rankings_of_no_weight_teach_nothing(recipe: Path, tmp_path: Path) -> None:
    """What eve says where nobody else ranked is no evidence either: the adapter is the same to the byte."""
    adapters = {}
    for name, ranks, weigh in (("a", [1, 2, 3], True), ("b", [2, 3, 1], True), ("c", [2, 3, 1], False)):
        alone = [
            {"prompt": f"{name} again {i}"[2:], "responses": BEST_FIRST, "ranks": ranks, "labeler": "eve"}
            for i in range(60)
        ]
        write_jsonl(tmp_path / "rankings.jsonl", team_rows(TEAM) + alone)
        less = [] if weigh else ["data.rankings.weight_by=null"]
        rm.run(load_recipe(recipe, [f"run.name={name}", f"rm.sft={tmp_path / 'runs/tiny'}", *less]))
        folder = tmp_path / "runs" / name / "rm" / "final"
        adapters[name] = (folder / "adapter_model.safetensors").read_bytes()
    assert adapters["a"] == adapters["b"] != adapters["c"]


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ({"ann": "right"}, "ann alone made the rankings"),
        ({"ann": "right", "bob": "right"}, "never three of them in turn"),
        ({"ann": "random", "bob": "random", "cyd": "random"}, None),
    ],
)
def test_where_nothing_can_be_known_it_says_so(
    recipe: Path, tmp_path: Path, people: dict[str, str], message: str | None
) -> None:
    write_jsonl(tmp_path / "rankings.jsonl", team_rows(people))
    if message is None:
        rm.run(load_recipe(recipe))  # three at random still have some numbers above guessing
        return
    with pytest.raises(UserError, match=message) as refused:
        rm.run(load_recipe(recipe))
    assert "data.rankings.weight_by" in str(refused.value) and "gold tasks" in str(refused.value)


def test_unshared_or_unnamed_rankings_are_refused(recipe: Path, tmp_path: Path) -> None:
    rows = team_rows({"ann": "right", "bob": "right"})
    write_jsonl(tmp_path / "rankings.jsonl", [row for i, row in enumerate(rows) if i // 2 % 2 == i % 2])
    with pytest.raises(UserError, match="no two labelers ranked the same responses"):
        rm.run(load_recipe(recipe))
    for row in rows:
        del row["labeler"]
    write_jsonl(tmp_path / "rankings.jsonl", rows)
    with pytest.raises(UserError, match="no training ranking names its labeler"):
        rm.run(load_recipe(recipe))


def test_demonstrations_have_no_weights_of_this_kind(recipe: Path) -> None:
    with pytest.raises(UserError, match="it belongs under data.rankings"):
        load_recipe(recipe, ["data.demonstrations.weight_by=reliability"])


def known(**accuracy: float | None) -> Reliability:
    return Reliability(
        tuple(LabelerReliability(n, Estimate(a, None, None, 100, 10)) for n, a in accuracy.items()), pairs=1
    )


def test_weights_are_log_odds_with_mean_one() -> None:
    people = ("ann", "bob", "cyd", "dan", "new")
    found = weights_by(known(ann=0.9, bob=0.75, cyd=0.5, dan=0.3, new=None), dict.fromkeys(people, 10))
    # ln 9, half of it, 0, 0, and for who is not known their mean over comparisons, 3/8 ln 9, the mean of all.
    assert found.by_name == {"ann": 2.667, "bob": 1.333, "cyd": 0.0, "dan": 0.0} and found.other == 1.0
    with pytest.raises(UserError, match="nobody orders responses better than guessing"):
        weights_by(known(ann=0.5, bob=0.2), {"ann": 1, "bob": 1})


def test_a_weight_multiplies_its_rankings_loss_and_its_slopes() -> None:
    scores = [
        torch.tensor([1.0, 0.0, -1.0], requires_grad=True),
        torch.tensor([0.3, 0.1], requires_grad=True),
    ]
    ranks = [[2, 1, 3], [1, 2]]
    alone = [ranking_loss(s, r) for s, r in zip(scores, ranks, strict=True)]
    both = batch_loss(scores, ranks, weights=[1.5, 0.0])
    torch.testing.assert_close(both, (1.5 * alone[0]) / 2)
    slope = torch.autograd.grad(alone[0], scores[0])[0]
    both.backward()
    torch.testing.assert_close(scores[0].grad, 0.75 * slope)
    assert scores[1].grad is not None and not scores[1].grad.any()
    with pytest.raises(ValueError, match="1 weights"):
        batch_loss(scores, ranks, weights=[1.0])
