"""Who can be trusted, from a labeling database: on the page, in the API, and as weights of `align rm`."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
pytest.importorskip("krippendorff", reason="needs the `labeling` extra")

from test_figures import HTML, put  # noqa: E402

from align.data.load import load  # noqa: E402
from align.errors import UserError  # noqa: E402
from align.recipe.load import load_recipe  # noqa: E402
from align.records import Ranking  # noqa: E402
from align.stages import rm, sft  # noqa: E402
from labeling.store.records import read_records  # noqa: E402

RESPONSES = [" good", " old and tired", " dull"]
ORDERS = {"right": lambda chance: [1, 2, 3], "random": lambda chance: chance.sample([1, 2, 3], 3)}


def team(site: Any, people: dict[str, str], tasks: int = 40, gold: int = 0) -> Any:
    """All do all tasks, of which the first are gold; whoever is right errs in one of five."""
    chance = random.Random(0)
    rows = [{"prompt": f"the {i} is", "responses": RESPONSES} for i in range(tasks)]
    rows[:gold] = [row | {"gold": [1, 2, 3]} for row in rows[:gold]]
    items = site.add(*rows)
    who = {name: site.person(name) for name in people}
    for item in items:
        for name, how in people.items():
            ranks = [2, 1, 3] if how == "right" and chance.random() < 0.2 else ORDERS[how](chance)
            put(site, item, who[name], ranks)
    return site


ONLY = "labelers: [ann, bob, cyd]"
THREE = {"ann": "right", "bob": "right", "cyd": "right", "dan": "random"}


def test_the_figures_say_who_orders_right(make_site: Callable[..., Any], database: str) -> None:
    site = team(make_site(database, overlap=4), THREE)
    client = site.signed_in("rae", "reviewer")
    found = client.get("/api/v1/figures").json()["reliability"]
    people = {one["name"]: one for one in found["labelers"]}
    assert list(people) == ["ann", "bob", "cyd", "dan"]
    for name in ("ann", "bob", "cyd"):  # one pair of three is wrong in one task of five
        one = people[name]
        assert one["reliability"]["value"] == pytest.approx(1 - 0.2 / 3, abs=0.05)
        a = one["reliability"]["value"]
        assert one["weight"] == pytest.approx(math.log(a / (1 - a)))
        assert not one["at_chance"]
    dan = people["dan"]
    assert dan["at_chance"] and dan["reliability"]["low"] < 0.5 < dan["reliability"]["high"]
    assert dan["reliability"]["count"] == 120
    assert people["ann"]["next_to"]["value"] < people["ann"]["apart"]["value"]
    assert (found["pairs"], found["known"]) == (120, 0)
    assert found["one"] < found["majority"] < found["weighted"]
    page = client.get("/figures", headers=HTML).text
    assert "Who orders responses right" in page and "may be guessing" in page


def test_gold_tasks_tell_two_people_apart(make_site: Callable[..., Any]) -> None:
    two = {"ann": "right", "dan": "random"}
    alone = team(make_site(overlap=2), two)
    figures = alone.signed_in("rae", "reviewer").get("/api/v1/figures").json()["reliability"]
    assert [one["reliability"]["value"] for one in figures["labelers"]] == [None, None]
    assert figures["majority"] is None
    page = alone.client()
    assert page.get("/figures", headers=HTML).status_code == 303, "only for those who are signed in"


def test_known_orders_are_evidence_and_never_records(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = team(make_site(overlap=2), {"ann": "right", "dan": "random"}, tasks=6, gold=2)
    decided = site.add({"prompt": "decided", "responses": RESPONSES})[0]
    eve, robot = site.person("eve", "reviewer"), site.person("robot", "machine")
    for person, more in ((site.person("bob"), {}), (eve, {"adjudicates": True}), (robot, {})):
        put(site, decided, person, [1, 2, 3], **more)
    rows = read_records(str(tmp_path / "labeling.db"), "evidence", {})
    assert [row for row in rows if "labeler" not in row] == [
        {"prompt": f"the {i} is", "responses": RESPONSES, "ranks": [1, 2, 3]} for i in range(2)
    ]
    assert sum("labeler" in row for row in rows) == 6 * 2 + 3
    assert {row["labeler"] for row in rows if row["prompt"] == "decided"} == {"bob", "eve", "robot"}
    prompts = {row["prompt"] for row in site.records()}
    assert prompts == {f"the {i} is" for i in range(2, 6)} | {"decided"}
    assert len(read_records(str(tmp_path / "labeling.db"), "evidence", {"until": 4})) == 4 + 2


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    path = tiny_recipe(sft={"steps": 2})
    raw = json.loads(path.read_text())
    labels = {"labels": str(tmp_path / "labeling.db"), "weight_by": "reliability", "held_out": 0.2}
    raw["data"]["rankings"] = labels
    path.write_text(json.dumps(raw))
    sft.run(load_recipe(path))
    return path


def test_the_reward_model_weighs_a_databases_labels_by_gold_tasks_too(
    make_site: Callable[..., Any], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two people alone cannot be told apart; with gold tasks they can."""
    site = make_site(overlap=2)
    team(site, {"ann": "right", "dan": "random"}, tasks=40, gold=20)
    rm.run(load_recipe(recipe))
    said = capsys.readouterr().out
    folder = recipe.parent / "runs/tiny/rm"
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = json.loads(manifest["data"]["labeler_weights"])
    assert weights["ann"] > 1.5 and weights["dan"] < 0.5
    assert "dan: weight" in said and "may be guessing" in said
    assert len(manifest["labels"]) == 2, "what was read of answers and of evidence is kept"
    source = load_recipe(recipe).data.rankings
    assert source is not None
    gold = {f"the {i} is" for i in range(20)}
    both = load(Ranking, source, "rankings")
    assert not gold & {str(r.prompt) for r in [*both.train, *both.held_out]}


def test_whoever_is_left_out_neither_trains_nor_says_who_is_right(
    make_site: Callable[..., Any], recipe: Path
) -> None:
    team(make_site(overlap=4), THREE)
    rm.run(load_recipe(recipe, ["data.rankings.without=labeler:dan"]))
    manifest = json.loads((recipe.parent / "runs/tiny/rm/manifest.json").read_text())
    weights = json.loads(manifest["data"]["labeler_weights"])
    assert {*weights} == {"ann", "bob", "cyd", "others"}
    people = json.loads((recipe.parent / "runs/tiny/rm/labelers.json").read_text())["labelers"]
    assert [one["name"] for one in people] == ["ann", "bob", "cyd"]
    without, chosen = (
        load_recipe(recipe, [f"data.rankings.{what}"]).data.rankings
        for what in ("without=labeler:dan", f"train=[{{labels: {recipe.parent}/labeling.db, {ONLY}}}]")
    )
    assert without is not None and chosen is not None
    rest = load(Ranking, without, "rankings")
    assert rest.fingerprint == load(Ranking, chosen, "rankings").fingerprint
    assert rest.left_out is not None and rest.left_out.all.train + rest.left_out.all.held_out == 40


def test_without_gold_two_people_are_refused_with_what_to_do(
    make_site: Callable[..., Any], recipe: Path
) -> None:
    team(make_site(overlap=2), {"ann": "right", "dan": "random"})
    with pytest.raises(UserError, match="where two disagree, nothing says which one is right. .*gold tasks"):
        rm.run(load_recipe(recipe))


def test_labels_that_came_later_leave_the_weights_of_a_stage_alone(
    make_site: Callable[..., Any], recipe: Path
) -> None:
    site = team(make_site(overlap=4), THREE)
    rm.run(load_recipe(recipe, ["rm.checkpoint_every=2"]))
    folder = recipe.parent / "runs/tiny/rm"
    before = (folder / "manifest.json").read_text()
    more = site.add({"prompt": "more", "responses": RESPONSES})[0]
    put(site, more, site.person("eve"), [3, 2, 1])
    rm.run(load_recipe(recipe, ["rm.checkpoint_every=2"]))
    after = json.loads((folder / "manifest.json").read_text())
    assert after["data"] == json.loads(before)["data"]
