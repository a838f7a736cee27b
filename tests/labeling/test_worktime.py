"""Hours by week without pages left open, and answers faster than anybody reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select  # noqa: E402

from labeling.store import worktime  # noqa: E402
from labeling.store.models import Label, Person, Slot, now  # noqa: E402

HTML = {"Accept": "text/html"}
CONTENT = {
    "ranks": [1, 2],
    "quality": [None] * 2,
    "flags": [[], []],
    "note": "",
    "all_bad": False,
    "edit": None,
}


def put(site: Any, person: Any, item: int, seconds: float | None, when: datetime, kind: str = "rank") -> None:
    with site.config.store.write() as session:
        label = Label(item_id=item, person_id=person.id, kind=kind, seconds=seconds, created=when)
        label.content = CONTENT if kind == "rank" else {"reason": "other", "note": ""}
        label.shown_order, label.submission = [0, 1], f"{person.id} {item}"
        session.add(label)


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    site = make_site(database)
    site.add(*({"prompt": "p" * 100, "responses": ["x" * 900 + str(i), "y" * 1000]} for i in range(6)))
    ann, bob = site.person("ann"), site.person("bob")
    sunday, monday = datetime(2026, 3, 1, 23, tzinfo=UTC), datetime(2026, 3, 2, 1, tzinfo=UTC)
    put(site, ann, 1, 100.0, sunday)
    put(site, ann, 2, 30.0, monday)  # 2,001 characters: at 50 a second, 40 seconds
    put(site, ann, 3, 90_000.0, monday)  # overnight
    put(site, ann, 4, 3.0, monday, kind="skip")
    put(site, ann, 5, None, monday)
    put(site, bob, 1, 60.0, monday)
    return site


def test_weeks_begin_on_monday_and_pages_left_open_are_no_work(team: Any) -> None:
    with team.config.store.read() as session:
        weeks = worktime.weeks(session, 50.0, datetime(2026, 1, 1, tzinfo=UTC))
        length = worktime.lengths(session, [1])[1]
    assert [(week.monday, week.name) for week in weeks] == [
        (date(2026, 3, 2), "ann"),
        (date(2026, 3, 2), "bob"),
        (date(2026, 2, 23), "ann"),
    ]
    ann = weeks[0]
    assert (ann.answers, ann.skips, ann.left, ann.fast, ann.untimed) == (3, 1, 1, 1, 1)
    assert length == 100 + 901 + 1000, "the prompt and the responses"
    assert 633 + length / 5 < ann.seconds < 633 + (length + 400) / 5
    assert weeks[2].seconds == 100.0


def test_what_is_too_fast_is_listed_and_only_leads_see_it(team: Any) -> None:
    with team.config.store.read() as session:
        found = worktime.too_fast(session, 50.0)
        assert [(seen.name, seen.item.id) for seen in found.rows] == [("ann", 2)]
        assert worktime.too_fast(session, 1e6).total == 0
    page = team.signed_in("eve", "admin").get("/people/time", headers=HTML)
    assert page.status_code == 200 and "Answer 2" in page.text
    for role in ("labeler", "reviewer"):
        assert team.signed_in(role, role).get("/people/time").status_code == 403


def test_a_pages_seconds_are_believed_up_to_the_time_that_has_gone_by(
    make_site: Callable[..., Any], database: str
) -> None:
    site = make_site(database, overlap=2, gold_every=0)
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(3)))
    ann, eve = site.signed_in("ann"), site.signed_in("eve", "reviewer")

    def seconds() -> float:
        with site.config.store.read() as session:
            found = session.scalars(select(Label.seconds).order_by(Label.id.desc()).limit(1)).one()
        assert found is not None
        return found

    assert site.answer(ann, CONTENT, seconds=9e6).status_code == 200
    assert 0 <= seconds() < 60, "since the task was taken"
    assert site.answer(ann, CONTENT, seconds=0.001).status_code == 200
    assert seconds() == 0.001
    assert site.answer(ann, CONTENT, seconds=-1.0).status_code == 422
    task = site.taken_at(eve, "/review/1")
    decided = {"task": task, "content": CONTENT, "seconds": 9e6, "adjudicates": True}
    assert site.answer(eve, **decided).status_code == 200
    assert seconds() < 60, "a decision too: since the reviewer's last answer, or the account"


def test_an_answer_that_comes_when_somebody_else_has_the_place_keeps_its_seconds(
    make_site: Callable[..., Any], database: str
) -> None:
    site = make_site(database, overlap=1, gold_every=0)
    site.add({"prompt": "p", "responses": ["x", "y"]})
    ann, bob = site.signed_in("ann"), site.signed_in("bob")
    task = site.taken(ann)
    hour = timedelta(hours=1)
    with site.config.store.write() as session:
        slot = session.scalars(select(Slot)).unique().one()
        slot.leased_until, slot.taken = now() - hour, now() - 2 * hour
        for person in session.scalars(select(Person)):
            person.created = now() - 3 * hour
    assert site.taken(bob)["number"] == task["number"], "the lease is over"
    assert site.answer(ann, CONTENT, task=task, seconds=600.0).status_code == 200
    with site.config.store.read() as session:
        assert session.scalars(select(Label.seconds)).one() == 600.0
