"""Files with responses twice, lines twice, and too much: what is told, and what people see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select  # noqa: E402

from align.errors import UserError  # noqa: E402
from labeling.store.imports import import_file  # noqa: E402
from labeling.store.models import Item  # noqa: E402

HTML = {"Accept": "text/html"}


def imported(site: Any, tmp_path: Path, *rows: dict[str, Any], **more: Any) -> str:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(import_file(site.config.store, file, 1, **more))


def texts(site: Any) -> list[list[str]]:
    with site.config.store.read() as session:
        items = session.scalars(select(Item).order_by(Item.id)).all()
        return [[response.text for response in item.responses] for item in items]


def test_a_response_that_is_there_twice_is_told_shown_once_and_ranked_once(site: Any, tmp_path: Path) -> None:
    said = imported(site, tmp_path, {"prompt": "p", "responses": ["x", "y", "x", "x"]})
    assert said == ("1 task added; 2 left out (2 × a response that is in its task twice: people see it once)")
    assert texts(site) == [["x", "y"]]
    ann = site.signed_in("ann")
    task = site.taken(ann)
    assert task["count"] == 2
    assert (
        site.answer(ann, {"ranks": [1, 2], "quality": [None] * 2, "flags": [[]] * 2}, task=task).status_code
        == 200
    )
    (row,) = site.records()
    assert sorted(row["responses"]) == ["x", "y"] and sorted(row["ranks"]) == [1, 2]
    assert imported(site, tmp_path, {"prompt": "p", "responses": ["x", "y"]}).startswith(
        "0 tasks added, 1 were"
    )


def test_where_all_are_the_same_there_is_nothing_to_rank(site: Any, tmp_path: Path) -> None:
    said = imported(
        site,
        tmp_path,
        {"prompt": "p", "responses": ["x", "x"]},
        {"prompt": "p", "responses": ["x", "x"], "kind": "compare"},
        {"prompt": "q", "responses": ["x", "y"]},
    )
    assert said == "1 task added; 2 left out (2 × all responses are the same: nothing to rank)"


def test_known_and_given_ranks_follow(site: Any, tmp_path: Path) -> None:
    gold = {"prompt": "g", "responses": ["x", "y", "x"], "gold": [1, 2, 1]}
    ranked = {"prompt": "r", "responses": ["x", "y", "x"], "labeler": "ann"}
    imported(site, tmp_path, gold)
    said = imported(site, tmp_path, {**ranked, "ranks": [2, 1, 2]}, labels=True)
    assert said.startswith("1 task added; 1 ranking kept as labels")
    said = imported(site, tmp_path, {**ranked, "prompt": "s", "ranks": [2, 1, 3]}, labels=True)
    assert "1 × one response has two ranks: this ranking is not kept" in said
    with site.config.store.read() as session:
        assert session.scalars(select(Item.gold).where(Item.gold.is_not(None))).all() == [[1, 2]]
    assert [(row["responses"], row["ranks"]) for row in site.records()] == [(["x", "y"], [2, 1])]
    with pytest.raises(UserError, match="two ranks to responses that are the same"):
        imported(site, tmp_path, {**gold, "gold": [1, 2, 3]})


def test_what_two_people_wrote_alike_is_judged_by_neither(site: Any) -> None:
    for name in ("ann", "bob"):
        site.person(name)
    both = [{"text": "x", "author": name} for name in ("ann", "bob")]
    site.add({"prompt": "p", "responses": [*both, "y"]}, {"prompt": "q", "responses": ["x", both[0], "y"]})
    assert texts(site) == [["x", "x", "y"], ["x", "y"]]
    with site.config.store.read() as session:
        authors = [
            r.author_id for item in session.scalars(select(Item).order_by(Item.id)) for r in item.responses
        ]
    assert authors == [1, 2, None, 1, None]


def test_three_equal_lines_are_one_task_and_told(site: Any, tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": ["x", "y"]}
    assert imported(site, tmp_path, row, row, row) == (
        "1 task added; 2 rows are the same as another one of the file"
    )
    assert imported(site, tmp_path, row, row, row) == (
        "0 tasks added, 1 were there before; 2 rows are the same as another one of the file"
    )


def test_an_upload_over_the_limit_is_told_how_much_is_allowed(make_site: Callable[..., Any]) -> None:
    site = make_site(upload_limit=1)
    eve = site.signed_in("eve", "admin")
    row = json.dumps({"prompt": "p" * 1000}).encode() + b"\n"
    reply = eve.post("/tasks", files={"file": ("t.jsonl", row * 1100)}, headers=HTML)
    assert reply.status_code == 413 and "1 MiB" in reply.text and "<title>" in reply.text
    assert "upload_limit" in reply.text
    with site.config.store.read() as session:
        assert session.scalars(select(Item)).all() == []
