"""Answers that nobody heard of, that come twice, late or from two tabs: none is lost, none is stale."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select  # noqa: E402

from labeling.store.models import Draft, Label, Slot, now  # noqa: E402

ROW = {"prompt": "p", "responses": ["x", "y"]}


def ranks(*given: int | None, **more: Any) -> dict[str, Any]:
    return {"ranks": list(given), "quality": [None, None], "flags": [[], []], **more}


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    return make_site(database, overlap=1, gold_every=0)


def as_shown(site: Any, task: dict[str, Any]) -> list[list[int]]:
    """The rankings of a task that stand, as its page shows the responses."""
    order = site.order(task)
    return [[row["ranks"][i] for i in order] for row in site.records()]


def test_a_known_submission_with_other_content_is_refused_and_says_what_stands(team: Any) -> None:
    team.add(ROW)
    ann = team.signed_in()
    task, sent = team.taken(ann), secrets.token_hex(16)
    assert team.answer(ann, ranks(1, 2), task=task, submission=sent).status_code == 200
    assert team.answer(ann, ranks(1, 2), task=task, submission=sent).status_code == 200, "the same, again"
    for other in ({"content": ranks(2, 1)}, {"content": {"reason": "other"}, "skip": True}, {"content": {}}):
        refused = team.answer(ann, **other, task=task, submission=sent)
        assert refused.status_code == 409, "it would be dropped unseen"
        assert refused.json()["standing"] == sent and "submit again" in refused.json()["detail"]
    assert as_shown(team, task) == [[1, 2]]
    again = team.answer(ann, ranks(2, 1), task=task, instead_of=[sent])
    assert again.status_code == 200
    assert as_shown(team, task) == [[2, 1]], "what the person changed it to"


@pytest.mark.parametrize("arrived", [True, False])
def test_an_answer_that_was_changed_before_anybody_heard_of_it_stands(team: Any, arrived: bool) -> None:
    team.add(ROW)
    ann = team.signed_in()
    task, first, second = team.taken(ann), secrets.token_hex(16), secrets.token_hex(16)
    if arrived:
        team.answer(ann, ranks(1, 2), task=task, submission=first)
    changed = team.answer(ann, ranks(2, 1), task=task, submission=second, instead_of=[first])
    assert changed.status_code == 200
    late = team.answer(ann, ranks(1, 2), task=task, submission=first)  # on its way all the time
    assert late.status_code == 200 if arrived else late.status_code == 409
    assert as_shown(team, task) == [[2, 1]]


def test_a_second_tab_is_told_and_may_replace_the_answer(team: Any) -> None:
    team.add(ROW)
    ann = team.signed_in()
    one, two = team.taken(ann), team.taken(ann)
    assert one["item"] == two["item"]
    first = secrets.token_hex(16)
    assert team.answer(ann, ranks(1, 2), task=one, submission=first).status_code == 200
    told = team.answer(ann, ranks(2, 1), task=two)
    assert (told.status_code, told.json()["standing"]) == (409, first)
    assert "already" in told.json()["detail"] and as_shown(team, one) == [[1, 2]]
    assert team.answer(ann, ranks(2, 1), task=two, instead_of=[first]).status_code == 200
    assert as_shown(team, one) == [[2, 1]]


def test_nobody_replaces_the_answer_of_another_person(make_site: Any, database: str) -> None:
    site = make_site(database, overlap=2, gold_every=0)
    site.add(ROW)
    ann, bob = site.signed_in("ann"), site.signed_in("bob")
    sent = secrets.token_hex(16)
    assert site.answer(ann, ranks(1, 2), submission=sent).status_code == 200
    assert site.answer(bob, ranks(2, 1), instead_of=[sent]).status_code == 200
    assert {row["labeler"] for row in site.records()} == {"ann", "bob"}


def test_drafts_are_ordered_by_their_revision(team: Any) -> None:
    team.add(ROW)
    ann = team.signed_in()
    task = team.taken(ann)
    path = f"/work/{task['number']}/draft"
    assert task["revision"] == 0
    first = ann.post(f"{path}?revision=0", json={"note": "one"})
    assert first.json() == {"held": True, "revision": 1}
    late = ann.post(f"{path}?revision=0", json={"note": "late"})
    assert late.status_code == 409
    assert (late.json()["content"], late.json()["revision"]) == ({"note": "one"}, 1)
    assert team.taken(ann)["draft"] == {"note": "one"}
    assert team.answer(ann, ranks(1, 2), task=task).status_code == 200
    assert ann.post(f"{path}?revision=1", json={"note": "late"}).status_code == 409, "it was answered"
    with team.config.store.read() as session:
        assert session.scalar(select(Draft)).content == {}


def test_a_reopened_answer_stands_until_the_next_one_and_nobody_else_gets_the_task(team: Any) -> None:
    team.add(ROW)
    ann, bob = team.signed_in("ann"), team.signed_in("bob")
    task = team.taken(ann)
    label = team.answer(ann, ranks(1, 2), task=task).json()["label"]
    assert ann.post(f"/reopen/{label}").status_code == 200
    assert as_shown(team, task) == [[1, 2]], "the old one stands"
    with team.config.store.write() as session:  # a laptop that is closed
        for slot in session.scalars(select(Slot)).unique():
            slot.leased_until = now() - timedelta(hours=1)
    assert bob.get("/work").status_code == 303, "it is ann's"
    again = team.taken(ann)
    assert (again["item"], again["reopened"]) == (task["item"], True)
    assert again["draft"]["ranks"] == [1, 2]
    assert ann.post(f"/work/{task['number']}/heartbeat", json={}).json() == {"held": True}
    changed = {**again["draft"], "ranks": [1, 1]}
    ann.post(f"/work/{task['number']}/draft?revision={again['revision']}", json=changed)
    assert ann.post(f"/reopen/{label}").status_code == 200
    assert team.taken(ann)["draft"] == changed, "reopened already: the work on it is kept"
    assert team.answer(ann, ranks(2, 1), task=again).status_code == 200
    assert as_shown(team, task) == [[2, 1]]
    with team.config.store.read() as session:
        assert [(x.kind, x.replaces) for x in session.scalars(select(Label).order_by(Label.id))] == [
            ("rank", None),
            ("rank", label),
        ]


def test_a_reopened_answer_can_be_left_as_it_is(team: Any) -> None:
    team.add(ROW, {**ROW, "prompt": "q"})
    ann, bob = team.signed_in("ann"), team.signed_in("bob")
    task = team.taken(ann)
    label = team.answer(ann, ranks(1, 2), task=task).json()["label"]
    second = team.taken(ann)
    assert second["item"] != task["item"]
    ann.post(f"/reopen/{label}")
    assert bob.post(f"/work/{task['number']}/keep", json={}).status_code == 404
    assert ann.post(f"/work/{task['number']}/keep", json={}).status_code == 200
    assert ann.post(f"/work/{task['number']}/keep", json={}).status_code == 404
    assert team.taken(ann)["item"] == second["item"], "back to the task before"
    assert as_shown(team, task) == [[1, 2]]


def test_a_correction_in_a_conversation_has_an_id_of_its_own(team: Any) -> None:
    from align.errors import UserError
    from labeling.store.corrections import keep_correction

    ann = team.person("ann")
    said = {"prompt": "q", "answer": "wrong", "origin": "m", "guideline": "g", "seconds": 1.0, "secret": "s"}

    def keep(submission: str, text: str) -> int:
        with team.config.store.write() as session:
            return keep_correction(session, ann, **said, submission=submission, text=text).id

    assert keep("a" * 32, "right") == keep("a" * 32, "right")
    with pytest.raises(UserError, match="earlier version"):
        keep("a" * 32, "better")
    keep("b" * 32, "better")
    assert [row["response"] for row in team.records("demonstrations")] == ["better"]
