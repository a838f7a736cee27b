"""Answers put together from parts of others: checked against the sources, kept with them, exported, shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from align.data.load import load
from align.recipe.data import Source
from align.records import Demonstration
from align.values import RecordError

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling.parts import in_pieces, located  # noqa: E402

ANSWERS = ["First **one**.\r\nSecond 😀 line.", "Other words. More of them.", "A third answer."]
TASK = {"prompt": "Why?", "responses": ANSWERS}


def part(site: Any, task: dict[str, Any], text: str) -> dict[str, Any]:
    """The part with this text, as the page would send it: by the place at which its response is shown."""
    (index,) = (i for i, answer in enumerate(ANSWERS) if text in answer)
    start = ANSWERS[index].index(text)
    place = site.order(task).index(index)
    return {"response": place, "start": start, "end": start + len(text), "text": text}


def content(text: str, *parts: dict[str, Any], response: int | None = None) -> dict[str, Any]:
    ranking = {"ranks": [1, 2, 3], "quality": [None] * 3, "flags": [[], [], []]}
    return ranking | {"edit": {"response": response, "text": text, "parts": list(parts)}}


def stored(site: Any) -> dict[str, Any]:
    from sqlalchemy import select

    from labeling.store.models import Label

    with site.config.store.read() as session:
        return dict(session.scalars(select(Label).order_by(Label.id.desc())).first().content)


def test_the_parts_are_kept_by_response_and_range_and_whether_they_were_changed(
    make_site: Any, database: str
) -> None:
    site = make_site(database)
    site.add(TASK)
    ann = site.signed_in()
    task = site.taken(ann)
    lines, words = part(site, task, "**one**.\r\nSecond 😀"), part(site, task, "More of them.")
    text = "**one**.\nSecond 😀\n\nMore of these."
    assert site.answer(ann, content(text, lines, words), task=task).status_code == 200
    edit = stored(site)["edit"]
    assert (edit["response"], edit["text"]) == (None, text)
    sources = [(p["response"], p["start"], p["end"], p["edited"]) for p in edit["parts"]]
    assert sources == [(0, 6, 24, False), (1, 13, 26, True)]
    assert [p["text"] for p in edit["parts"]] == ["**one**.\r\nSecond 😀", "More of them."]
    (row,) = site.records("demonstrations")
    assert row["response"] == text and [p["response"] for p in row["parts"]] == [0, 1]
    assert {p["task"] for p in row["parts"]} == {task["item"]}
    assert site.records("rankings", corrections=True) == site.records("rankings"), "it replaces none of them"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"response": 3}, "doesn't have"),
        ({"end": 999}, "no range"),
        ({"start": 20, "end": 20}, "no range"),
        ({"start": 0, "end": 5}, "isn't what stands"),
        ({"text": "Words that nobody wrote."}, "isn't what stands"),
        ({"start": -1}, "not well formed"),
        ({"letter": "A"}, "not well formed"),
    ],
)
def test_a_part_that_is_none_is_refused_plainly_and_the_same_work_can_be_sent(
    site: Any, wrong: dict[str, Any], says: str
) -> None:
    site.add(TASK)
    ann = site.signed_in()
    task = site.taken(ann)
    good = part(site, task, "More of them.")
    reply = site.answer(ann, content("More of them.", good | wrong), task=task)
    assert reply.status_code == 409 and says in reply.json()["detail"]
    assert site.answer(ann, content("More of them.", good), task=task).status_code == 200


def test_parts_of_another_task_are_no_parts(site: Any) -> None:
    site.add({"prompt": "Else?", "responses": ["Something else.", "Anything."], "priority": -1}, TASK)
    ann = site.signed_in()
    task = site.taken(ann)
    stranger = {"response": 0, "start": 0, "end": 15, "text": "Something else."}
    assert site.answer(ann, content("Something else.", stranger), task=task).status_code == 409


def test_a_rewritten_response_and_a_correction_may_have_parts_too(site: Any) -> None:
    site.add(TASK, {"prompt": "P", "responses": [ANSWERS[1]]})
    ann = site.signed_in()
    task = site.taken(ann)
    words = part(site, task, "Other words.")
    third = site.order(task).index(2)
    assert (
        site.answer(ann, content("Third. Other words.", words, response=third), task=task).status_code == 200
    )
    correction = {"text": "More of them, I say.", "parts": [words | {"response": 0}]}
    assert site.answer(ann, correction).status_code == 200
    rewritten, corrected = site.records("demonstrations")
    assert rewritten["parts"][0]["edited"] is False and corrected["parts"][0]["edited"] is True
    better = site.records("rankings", corrections=True)[1]
    assert better["responses"] == ["Third. Other words.", ANSWERS[2]]


def test_it_comes_back_with_its_letters_when_it_is_reopened(site: Any) -> None:
    site.add(TASK)
    ann = site.signed_in()
    task = site.taken(ann)
    words = part(site, task, "More of them.")
    given = content("More of them.", words)
    label = site.answer(ann, given, task=task, submission="1" * 32).json()["label"]
    assert site.answer(ann, given, task=task, submission="1" * 32).json()["label"] == label
    assert ann.post(f"/reopen/{label}").status_code == 200
    draft = site.taken(ann)["draft"]
    assert draft["edit"] == {"response": None, "text": "More of them.", "parts": [words | {"edited": False}]}


def test_exports_hold_the_sources_and_train_as_they_are(site: Any, tmp_path: Path) -> None:
    site.add(TASK, {"prompt": "Plain?"})
    ann = site.signed_in()
    task = site.taken(ann)
    site.answer(ann, content("More of them.", part(site, task, "More of them.")), task=task)
    site.answer(ann, {"text": "Plain."})
    admin = site.signed_in("lead", "admin")
    for name in ("demonstrations.jsonl", "demonstrations.csv"):
        (tmp_path / name).write_bytes(admin.get(f"/api/v1/records/{name}").content)
        source = Source.model_validate({"train": [{"path": str(tmp_path / name)}], "held_out": 0.0})
        composed, plain = load(Demonstration, source, "demonstrations").train
        assert composed.parts == (
            {"task": task["item"], "response": 1, "start": 13, "end": 26, "edited": False},
        )
        assert (plain.response, plain.parts) == ("Plain.", None)
    with (tmp_path / "demonstrations.csv").open(encoding="utf-8-sig") as file:
        assert json.loads(next(csv.DictReader(file))["parts"])[0]["end"] == 26
    source = Source.model_validate({"labels": str(tmp_path / "labeling.db"), "held_out": 0.0})
    assert load(Demonstration, source, "demonstrations").train[0].parts is not None


def test_a_record_with_parts_that_are_none_is_refused() -> None:
    row = {"prompt": "p", "response": "r", "parts": [{"task": 1, "response": 0, "start": 2, "end": 1}]}
    with pytest.raises(RecordError, match="parts.0"):
        Demonstration.from_dict(row)


def test_reviewers_see_where_each_part_is_from(site: Any) -> None:
    site.add(TASK)
    ann = site.signed_in()
    task = site.taken(ann)
    words, other = part(site, task, "More of them."), part(site, task, "A third answer.")
    label = site.answer(ann, content("Mine. More of them.", words, other), task=task).json()["label"]
    lead = site.signed_in("lead", "admin")
    page = lead.get(f"/labels/{label}", headers={"Accept": "text/html"}).text
    letters = {"words": "ABC"[words["response"]], "other": "ABC"[other["response"]]}
    assert f'characters 13 to 26"><b>{letters["words"]}</b>More of them.</mark>' in page
    assert f"<li>{letters['other']}, characters 0 to 15, changed since: " in page
    own = [site.order(site.taken_at(lead, f"/review/{task['item']}")).index(i) for i in (1, 2)]
    decide = lead.get(f"/review/{task['item']}", headers={"Accept": "text/html"}).text
    assert f"<b>{'ABC'[own[0]]}</b>More of them.</mark>" in decide, "in the reviewer's own letters"


def test_parts_are_found_in_their_order_then_anywhere_and_share_nothing() -> None:
    assert located("b a b", ["a", "b"]) == [2, 4]
    assert located("a b", ["b", "a"]) == [2, 0]
    assert located("one", ["one", "one"]) == [0, None]
    assert located("aXXbXX", ["XX", "XX"]) == [1, 4]
    parts = [{"text": "one\r\ntwo"}, {"text": "gone"}]
    assert in_pieces("Say one\ntwo.", parts) == [("Say ", None), ("one\ntwo", 0), (".", None)]
