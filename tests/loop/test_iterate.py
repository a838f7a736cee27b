"""`align iterate`: what comes next, and two rounds with people in between."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labeling_app import Site
from rich.console import Console

from align.errors import UserError
from align.loop.iterate import Goal, RoundState, Step, iterate, next_step
from align.recipe.load import load_recipe
from align.stage_table import STAGES

GOAL = Goal(rankings=10, demonstrations=5)
READY = RoundState(sft=True)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (RoundState(), Step("ask", 5)),
        (RoundState(demonstrations=2, open_demonstrations=1), Step("ask", 2)),
        (RoundState(demonstrations=2, open_demonstrations=3), Step("wait for demonstrations", 3)),
        (
            RoundState(demonstrations=2, open_demonstrations=1, prompts_left=False),
            Step("wait for demonstrations", 3),
        ),
        (RoundState(demonstrations=2, prompts_left=False), Step("stuck", 3)),
        (RoundState(demonstrations=5), Step("sft")),
        (RoundState(sft_begun=True, demonstrations=1), Step("sft")),
        (RoundState(people_demonstrate=False), Step("sft")),
        (READY, Step("sample", 10)),
        (RoundState(sft=True, rankings=4, open_rankings=4), Step("sample", 2)),
        (RoundState(sft=True, rankings=4, open_rankings=6), Step("wait for rankings", 6)),
        (RoundState(sft=True, rankings=4, open_rankings=2, prompts_left=False), Step("wait for rankings", 6)),
        (RoundState(sft=True, rankings=4, prompts_left=False), Step("stuck", 6)),
        (RoundState(sft=True, rankings=10), Step("rm")),
        (RoundState(sft=True, begun=True, rankings=3), Step("rm")),
        (RoundState(sft=True, begun=True, rm=True), Step("ppo")),
    ],
)
def test_one_thing_comes_next(state: RoundState, step: Step) -> None:
    assert next_step(state, GOAL) == step


class Round:
    """`align iterate` on a tiny recipe, with what it said and what it trained."""

    def __init__(self, path: Path) -> None:
        self.path, self.trained, self.stop_at = path, list[tuple[str, str]](), ""
        self.console = Console(record=True, width=1000)

    def go(self, **goal: Any) -> str:
        def train(stage: str, path: Path) -> None:
            if stage == self.stop_at:
                raise KeyboardInterrupt
            self.trained.append((stage, path.name))
            importlib.import_module(STAGES[stage].module).run(load_recipe(path))

        wanted = Goal(**{"rankings": 5, "demonstrations": 4, "k": 3, **goal})
        iterate(load_recipe(self.path), "recipe.yaml", wanted, train, self.console)
        return self.console.export_text()


def rank_all(site: Site, client: Any, most: int) -> int:
    """Rank tasks until none waits; how many there were."""
    for count in range(most + 1):
        if client.get("/work").status_code == 303:
            return count
        task = site.taken(client)
        ranks = list(range(1, task["count"] + 1))
        content = {"ranks": ranks, "quality": [None] * len(ranks), "flags": [[] for _ in ranks]}
        assert site.answer(client, content, task=task).status_code == 200
    raise AssertionError("more tasks than expected")


def test_two_rounds_with_people_in_between(
    tiny_recipe: Callable[..., Path], make_site: Callable[..., Site], tmp_path: Path
) -> None:
    labels = str(tmp_path / "labels.db")
    read = {"labels": labels, "held_out": 0.3}
    data = {"demonstrations": read, "rankings": read, "prompts": {"train": "prompts.jsonl", "held_out": 0.2}}
    path = tiny_recipe(
        data={**data, "template": "plain"}, labeling={"database": labels, "priority": "margin"}
    )
    run = tmp_path / "runs" / "tiny"
    work = Round(path)

    said = work.go()
    assert "4 prompts are waiting for people" in said and "0 of 4 demonstrations are there" in said
    assert "align label recipe.yaml" in said
    site = make_site(labels)
    client = site.signed_in("ann")
    for _ in range(3):
        assert site.answer(client, {"text": " bright and moving"}).status_code == 200
    assert "is waiting for people: 3 of 4 demonstrations are there" in work.go()
    assert site.answer(client, {"text": " dull"}).status_code == 200

    said = work.go()
    assert work.trained == [("sft", "sft.yaml")]
    assert "round 1 is waiting for people: 0 of 5 rankings are there" in said
    assert rank_all(site, client, 5) == 5

    work.stop_at = "rm"
    with pytest.raises(KeyboardInterrupt):
        work.go()
    frozen = (run / "iterate" / "round-1.yaml").read_text()
    until = max(label["id"] for label in labels_of(site))
    assert load_recipe(run / "iterate" / "round-1.yaml").data.rankings.train[0].until == until  # type: ignore[union-attr]
    site.add({"prompt": "the film is", "responses": [" late", " later"]})  # a label that comes too late
    assert rank_all(site, client, 1) == 1

    work.stop_at = "ppo"
    with pytest.raises(KeyboardInterrupt):
        work.go()
    assert (run / "iterate" / "round-1.yaml").read_text() == frozen
    first = json.loads((run / "round-1" / "rm" / "manifest.json").read_text())
    assert {one["name"]: one["run"] for one in first["parents"]} == {"sft": str(run)}
    again = load_recipe(run / "iterate" / "round-1.yaml")
    importlib.import_module("align.stages.rm").run(again)  # refuses other labels than it began with

    work.stop_at = ""
    said = work.go()
    assert work.trained == [("sft", "sft.yaml"), ("rm", "round-1.yaml"), ("ppo", "round-1.yaml")]
    assert "round 2 is waiting for people: 0 of 5 rankings are there" in said
    with site.config.store.read() as session:
        from labeling.store.models import Item

        asked = session.query(Item).order_by(Item.id.desc()).limit(5).all()
        assert all(r.origin.startswith("round-1/ppo ") for item in asked for r in item.responses)
        assert all(0 < item.priority <= 1 for item in asked)
    assert rank_all(site, client, 5) == 5
    work.stop_at = "rm"
    with pytest.raises(KeyboardInterrupt):
        work.go()
    second = load_recipe(run / "iterate" / "round-2.yaml")
    assert second.run.path == run / "round-2" and second.rm.sft == second.ppo.sft == str(run)


def labels_of(site: Site) -> list[dict[str, Any]]:
    admin = site.signed_in("boss", "admin")
    return list(admin.get("/api/v1/labels?limit=1000").json()["labels"])


def test_prompts_that_run_out_are_told(
    tiny_recipe: Callable[..., Path], hasty_disk: None, tmp_path: Path
) -> None:
    data = {"template": "plain", "demonstrations": None, "rankings": None}
    work = Round(tiny_recipe(data=data))
    said = work.go(demonstrations=30)
    assert "24 prompts are waiting for people" in said and "0 of 30 demonstrations are there" in said
    site_labels = tmp_path / "runs" / "tiny" / "labeling.db"
    assert site_labels.is_file()


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"ppo": {"sft": "runs/x"}}, "leave out ppo.sft"),
        ({"data": {"prompts": "p", "rankings": "rankings.jsonl"}}, "answers go"),
        ({"data": {"prompts": "p", "rankings": {"labels": "other.db"}}}, "answers go"),
        ({"data": {"template": "plain"}}, "names no data.prompts"),
        ({"data": {"prompts": "p", "rankings": {"labels": "other.db", "until": 3}}}, "leave out until"),
        ({"labeling": {"priority": "disagreement"}}, "priority none, margin or gap"),
    ],
)
def test_what_leaves_no_room_for_rounds_is_told(
    tiny_recipe: Callable[..., Path], hasty_disk: None, sections: dict[str, Any], told: str
) -> None:
    path = tiny_recipe(**sections)
    if "data" in sections:  # these alone
        path.write_text(json.dumps({**json.loads(path.read_text()), "data": sections["data"]}))
    with pytest.raises(UserError, match=told):
        Round(path).go()


def test_a_round_that_was_refused_takes_the_corrected_recipe(
    tiny_recipe: Callable[..., Path], make_site: Callable[..., Site], tmp_path: Path
) -> None:
    labels = str(tmp_path / "labels.db")
    read = {"labels": labels, "held_out": 0.3}
    data = {"demonstrations": read, "rankings": read, "prompts": {"train": "prompts.jsonl", "held_out": 0.2}}
    fields = {"data": {**data, "template": "plain"}, "labeling": {"database": labels}}
    work = Round(tiny_recipe(**fields, sft={"max_length": 2}))
    work.go()
    client = (site := make_site(labels)).signed_in("ann")
    for _ in range(4):
        assert site.answer(client, {"text": " bright and moving"}).status_code == 200
    with pytest.raises(UserError, match="on_bad_record: skip"):
        work.go()
    work.path = tiny_recipe(**fields)
    assert "0 of 5 rankings are there" in work.go()
