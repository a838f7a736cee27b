"""The first gold tasks of a labeler: feedback, a mark to reach, then real work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select  # noqa: E402

from labeling.store.calibration import score  # noqa: E402
from labeling.store.models import Label  # noqa: E402

HTML = {"Accept": "text/html"}


@pytest.mark.parametrize(
    ("ranks", "gold", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], (3, 3)),
        ([3, 2, 1], [1, 2, 3], (0, 3)),
        ([1, 1, 1], [1, 2, 3], (1.5, 3)),
        ([1, 2, None], [1, 2, 3], (1, 3)),  # what is left out is not right
        (None, [1, 2], (0, 1)),
    ],
)
def test_a_score_is_counted_by_hand(ranks: Any, gold: Any, expected: tuple[float, int]) -> None:
    assert score(ranks, gold) == expected


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    site = make_site(database, gold_every=0, calibration=2, pass_mark=0.75)
    row = {"responses": ["x", "y"], "meta": {"explanation": "*because*"}}
    gold = ({"prompt": f"gold {i}", "gold": [1, 2], **row} for i in range(3))
    site.add({"prompt": "real", "priority": 9, **row}, *gold)
    return site


def given(site: Any, client: Any, right: bool) -> Any:
    """Answer the next task, with x before y where it is right."""
    task = site.taken(client)
    ranks = [1 if (index == 0) == right else 2 for index in site.order(task)]
    reply = site.answer(client, {"ranks": ranks, "quality": [None] * 2, "flags": [[], []]}, task=task)
    assert reply.status_code == 200, reply.text
    return task["item"], reply.json()


def test_who_passes_gets_feedback_after_each_and_then_real_work(team: Any) -> None:
    ann, bob = team.signed_in("ann"), team.signed_in("bob")
    assert "First, 2 tasks whose answer is known" in ann.get("/", headers=HTML).text
    item, reply = given(team, ann, right=True)
    assert item == 2 and reply["next"] == "/calibration/1"
    page = ann.get("/calibration/1", headers=HTML).text
    assert "As it is known to be" in page and "<em>because</em>" in page and "1 of 2 tasks" in page
    assert bob.get("/calibration/1").status_code == 404, "not somebody else's"
    assert ann.post("/reopen/1", json={}).status_code == 409, "who has seen the answer doesn't change it"
    item, reply = given(team, ann, right=True)
    assert item == 3 and "You passed: 100 %" in ann.get(reply["next"], headers=HTML).text
    item, reply = given(team, ann, right=True)
    assert item == 1 and "next" not in reply
    assert [row["prompt"] for row in team.records()] == ["real"], "gold never trains"


def test_who_fails_is_told_and_the_lead_sees_it_and_decides(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "admin")
    given(team, ann, right=True)
    _, reply = given(team, ann, right=False)
    assert "50 % of the pairs are as known; 75 % are needed" in ann.get(reply["next"], headers=HTML).text
    assert "below the mark" in ann.get("/", headers=HTML).text
    assert ann.get("/work").headers["location"] == "/"
    assert "failed 50 %" in eve.get("/people", headers=HTML).text
    assert ann.post("/people/1/calibration", data={"said": "waived"}).status_code == 403
    assert eve.post("/people/1/calibration", data={"said": "again"}).status_code == 303
    item, _ = given(team, ann, right=True)
    assert item == 4, "another gold task"
    assert team.taken(ann)["item"] == 1, "all that there are: one of one is enough"
    assert "passed 100 %" in eve.get("/people", headers=HTML).text
    none = eve.post("/people/1/calibration", data={"said": "again"}, headers=HTML)
    assert none.status_code == 409 and "no gold task" in none.text


def test_skips_are_wrong_and_a_lead_can_let_people_work(team: Any) -> None:
    ann, eve = team.signed_in("ann"), team.signed_in("eve", "admin")
    for _ in range(2):
        assert team.answer(ann, {"reason": "other"}, skip=True).status_code == 200
    assert ann.get("/work").headers["location"] == "/"
    assert eve.post("/people/1/calibration", data={"said": "waived"}).status_code == 303
    assert team.taken(ann)["item"] == 1
    team.add({"prompt": "another", "responses": ["x", "y"]})
    assert team.taken(eve)["item"] == 5, "an admin has work at once"


def test_gold_after_the_calibration_is_not_shown(make_site: Callable[..., Any]) -> None:
    site = make_site(gold_every=1, calibration=1, pass_mark=0.5)
    row = {"responses": ["x", "y"]}
    site.add({"prompt": "a", **row}, *({"prompt": f"gold {i}", **row, "gold": [1, 2]} for i in range(2)))
    ann = site.signed_in("ann")
    given(site, ann, right=True)
    assert given(site, ann, right=True)[0] == 1
    site.add({"prompt": "b", **row}, {"prompt": "c", **row})
    seen = [given(site, ann, right=True) for _ in range(2)]
    gold = [reply for item, reply in seen if item == 3]
    assert gold and "next" not in gold[0]
    assert ann.get(f"/calibration/{gold[0]['label']}").status_code == 404
    with site.config.store.read() as session:
        assert len(session.scalars(select(Label)).all()) == 4
