"""A lead's tasks: found, hidden, deleted, requeued, reordered, done by more people, for some people only."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import event, func, select  # noqa: E402

from align.errors import UserError  # noqa: E402
from labeling.store.models import Audit, Item, Label, Response, Slot  # noqa: E402

HTML = {"Accept": "text/html"}
PAIR = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}
TASK = {"responses": ["x", "y"]}


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    site = make_site(database, overlap=1, gold_every=0)
    site.add({"prompt": "one", **TASK}, {"prompt": "two", **TASK}, {"prompt": "three", "kind": "demonstrate"})
    return site


def asked(client: Any, action: str, tasks: Any = (), **more: Any) -> Any:
    """What is asked before tasks are changed."""
    given = {"action": action, "task": [str(task) for task in tasks], **more}
    return client.post("/tasks/change", data=given, headers=HTML)


def done(client: Any, action: str, tasks: Any = (), **more: Any) -> str:
    """Ask, confirm the number that is told, and what is said then."""
    page = asked(client, action, tasks, **more)
    assert page.status_code == 200, page.text
    number = re.search(r'name="confirmed" value="(\d+)"', page.text)
    assert number
    page = asked(client, action, tasks, **more, confirmed=number[1])
    assert page.status_code == 200
    told = re.search(r'role="status">(Tasks: [^<]*)', page.text)
    assert told
    return told[1]


def waiting(client: Any) -> bool:
    return bool(client.get("/work", headers=HTML).status_code == 200)


def test_hidden_tasks_come_to_nobody_and_can_be_shown_again(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "admin")
    assert "Hide 3 tasks?" in asked(eve, "hide", [1, 2, 3]).text
    assert waiting(ann), "nothing is done before it is confirmed"
    assert done(eve, "requeue", [1]) == "Tasks: 1 requeued."
    assert done(eve, "hide", scope="filter", state="open") == "Tasks: 3 hidden."
    assert not waiting(ann)
    assert "hidden" in eve.get("/tasks?state=hidden", headers=HTML).text
    assert done(eve, "show", [2]) == "Tasks: 1 shown."
    assert team.taken(ann)["item"] == 2
    with team.config.store.read() as session:
        entries = session.execute(select(Audit.action, Audit.detail).order_by(Audit.id)).all()
    assert [action for action, _ in entries] == ["tasks: requeue", "tasks: hide", "tasks: show"]
    assert entries[1][1]["tasks"] == [1, 2, 3]


def test_only_untouched_tasks_are_deleted(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "admin")
    assert team.answer(ann, PAIR).status_code == 200
    task = team.taken(ann)
    saved = ann.post(f"/work/{task['number']}/draft", json={"note": "begun"})
    assert saved.status_code == 200
    assert done(eve, "delete", [1, 2, 3]) == "Tasks: 1 deleted, 2 hidden."
    with team.config.store.read() as session:
        assert session.scalars(select(Item.id).order_by(Item.id)).all() == [1, 2]
        assert session.scalar(select(func.count()).where(Response.item_id == 3)) == 0
    assert team.answer(ann, PAIR, task=task).status_code == 200, "who has begun can finish"
    assert len(team.records()) == 2


def test_a_requeued_task_leaves_its_holder_and_comes_back_to_who_skipped_it(team: Any) -> None:
    ann, bob, eve = team.signed_in("ann"), team.signed_in("bob"), team.signed_in("eve", "admin")
    skipped = team.answer(ann, {"reason": "broken", "note": "no <b>text</b>"}, skip=True)
    assert skipped.status_code == 200
    page = eve.get("/tasks?state=skipped", headers=HTML).text
    assert "ann skipped: Something is broken here (no &lt;b&gt;text&lt;/b&gt;)" in page
    task = team.taken(bob)
    assert task["item"] == 1
    done(eve, "requeue", [1])
    assert ann.get("/tasks").status_code == 403
    assert team.taken(ann)["item"] == 1
    assert bob.post(f"/work/{team.number(1)}/heartbeat", json={}).json() == {"held": False}
    assert "There are no such tasks" in eve.get("/tasks?state=skipped", headers=HTML).text


@pytest.mark.parametrize(
    ("code", "typed", "shown", "value"),
    [
        ("de", "0,5", "wird 0,5.", 0.5),
        ("de", " -1.25 ", "wird -1,25.", -1.25),
        ("fr", "0,5", "devient 0,5.", 0.5),
        ("en", "0,5", "becomes 0.5.", 0.5),
        ("en", "0.125", "becomes 0.125.", 0.125),
        ("de", "1.500", None, 0),
        ("en", "1,500", None, 0),
        ("en", "1_0", None, 0),
        ("en", "1,2.3", None, 0),
    ],
)
def test_a_number_is_typed_with_a_comma_or_a_full_stop(
    team: Any, code: str, typed: str, shown: str | None, value: float
) -> None:
    eve = team.signed_in("eve", "admin")
    eve.post("/account/language", data={"language": code})
    answer = asked(eve, "priority", [1], priority=typed)
    if shown is None:
        assert answer.status_code == 409
        return
    assert shown in answer.text
    assert asked(eve, "priority", [1], confirmed="1", priority=typed).status_code == 200
    with team.config.store.read() as session:
        assert session.get_one(Item, 1).priority == value


def test_priority_and_overlap_are_changed_afterwards(team: Any) -> None:
    ann, bob, eve = team.signed_in("ann"), team.signed_in("bob"), team.signed_in("eve", "admin")
    assert done(eve, "priority", [3], priority="5") == "Tasks: 1 reordered."
    assert team.taken(ann)["item"] == 3
    assert team.answer(ann, {"text": "written"}).status_code == 200
    assert done(eve, "overlap", [3], overlap="2") == "Tasks: 1 changed."
    assert team.taken(bob)["item"] == 3
    assert done(eve, "overlap", [1, 2, 3], overlap="1") == "Tasks: 3 changed."
    with team.config.store.read() as session:
        slots = session.execute(select(Slot.item_id, Slot.state).order_by(Slot.item_id, Slot.id)).all()
    assert [tuple(slot) for slot in slots] == [(1, "free"), (2, "free"), (3, "done"), (3, "leased")]
    for wrong in ({"priority": "high"}, {"priority": "nan"}, {"priority": "1e99"}):
        assert asked(eve, "priority", [1], confirmed="1", **wrong).status_code == 409
    for wrong in ("51", "2.5", "many", ""):
        assert asked(eve, "overlap", [1], overlap=wrong, confirmed="1").status_code == 409
    assert asked(eve, "melt", [1]).status_code == 409
    assert asked(eve, "hide").status_code == 409, "none is chosen"


def test_the_number_that_was_confirmed_is_the_number_that_is_changed(team: Any) -> None:
    eve = team.signed_in("eve", "admin")
    team.add({"prompt": "four", **TASK})
    late = asked(eve, "hide", scope="filter", confirmed="3")
    assert late.status_code == 409 and "Hide 4 tasks?" in late.text
    assert team.taken(team.signed_in("ann"))


def test_tasks_come_to_those_whom_they_name_or_who_can(make_site: Callable[..., Any], database: str) -> None:
    site = make_site(database, overlap=1, gold_every=1)
    ann, bob, eve = site.signed_in("ann"), site.signed_in("bob"), site.signed_in("eve", "admin")
    site.add(
        {"prompt": "for bob", **TASK, "people": ["bob"], "priority": 3},
        {"prompt": "german", **TASK, "language": " DE ", "priority": 2},
        {"prompt": "medicine in german", **TASK, "language": "de", "skills": ["Medicine"]},
        {"prompt": "gold in french", **TASK, "language": "fr", "gold": [1, 2]},
    )
    with pytest.raises(UserError, match="nobody is called 'zoe'"):
        site.add({"prompt": "p", "people": ["zoe"]})
    assert not waiting(ann)
    page = eve.get("/tasks", headers=HTML).text
    assert "2 tasks wait and nobody can take them" in page
    listed = eve.get("/tasks?state=stuck", headers=HTML).text.split('id="list"')[1]
    assert "medicine in german" in listed and "for bob" not in listed
    given = {"languages": "DE, en", "skills": ""}
    assert ann.post("/people/1/abilities", data=given).status_code == 403
    assert eve.post("/people/1/abilities", data=given).status_code == 303
    assert site.taken(ann)["item"] == 2
    assert site.answer(ann, PAIR).status_code == 200
    assert not waiting(ann), "she has no medicine, and no French for the gold one"
    assert "1 task waits and nobody can take it" in eve.get("/tasks", headers=HTML).text
    assert eve.post("/people/1/abilities", data={"languages": "de", "skills": "medicine"}).status_code == 303
    assert site.taken(ann)["item"] == 3
    assert site.taken(bob)["item"] == 1
    assert done(eve, "assign", [3], people="bob, eve", skills="", language="") == "Tasks: 1 assigned."
    assert asked(eve, "assign", [3], people="zoe").status_code == 409
    assert "for bob" in eve.get("/tasks", headers=HTML).text


def test_the_list_stays_short_in_queries_and_flags_are_told_with_their_response(
    make_site: Callable[..., Any],
) -> None:
    site = make_site(gold_every=0)
    site.add(*({"prompt": f"p{i}", **TASK} for i in range(300)))
    ann, eve = site.signed_in("ann"), site.signed_in("eve", "admin")
    task = site.taken(ann)
    content = {**PAIR, "flags": [[], ["hallucination"]]}
    assert site.answer(ann, content, task=task).status_code == 200
    shown = site.order(task)[1] + 1
    assert f"ann, response {shown}: Hallucination" in eve.get("/tasks?state=flagged", headers=HTML).text
    queries: list[str] = []
    event.listen(
        site.config.store.engine, "before_cursor_execute", lambda c, k, asked, *more: queries.append(asked)
    )
    for state in ("", "open", "worked", "done", "gold", "hidden", "skipped", "flagged", "stuck"):
        queries.clear()
        assert eve.get(f"/tasks?state={state}", headers=HTML).status_code == 200
        assert len([asked for asked in queries if asked.startswith("SELECT")]) <= 25, state
    assert done(eve, "hide", scope="filter", state="open") == "Tasks: 299 hidden."
    with site.config.store.read() as session:
        assert session.scalar(select(func.count(Label.id))) == 1


def test_a_labeler_and_a_reviewer_change_no_task(team: Any) -> None:
    for client in (team.signed_in("ann"), team.signed_in("rob", "reviewer")):
        assert asked(client, "delete", [1], confirmed="1").status_code == 403
        for path in ("/tasks", "/people", "/people/1"):
            assert client.get(path).status_code == 403
    outside = team.client().post("/tasks/change", data={"action": "hide", "task": "1"})
    assert outside.status_code == 401
    eve = team.signed_in("eve", "admin")
    del eve.headers["X-CSRF-Token"]
    assert asked(eve, "delete", [1], confirmed="1").status_code == 403
    with team.config.store.read() as session:
        assert session.scalar(select(func.count(Item.id))) == 3
