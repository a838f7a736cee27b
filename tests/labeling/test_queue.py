"""The queue in both databases: leases, own work, gold, priority, overlap, a history that is only added to."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import func, select, text  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402

from align.errors import UserError  # noqa: E402
from labeling.answers import Answer  # noqa: E402
from labeling.store import labels, queue  # noqa: E402
from labeling.store.engine import Store  # noqa: E402
from labeling.store.models import Item, Label, Person, Slot, now  # noqa: E402

RULES = queue.Rules(timedelta(minutes=10))
PAIR = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    return make_site(database, overlap=2, gold_every=0)


def submit(site: Any, person: Person, item: Item, **more: Any) -> Label:
    with site.config.store.write() as session:
        given = Answer(
            content=more.pop("content", PAIR),
            submission=more.pop("submission", secrets.token_hex(16)),
            guideline=None,
            seconds=1.0,
            **more,
        )
        return labels.submit(session, person, session.get_one(Item, item.id), given, site.config.secret)


def expire(store: Store) -> None:
    with store.write() as session:
        for slot in session.scalars(select(Slot).where(Slot.state == "leased")):
            slot.leased_until = now() - timedelta(seconds=1)


def test_labelers_at_once_never_share_a_slot_and_none_is_left(team: Any) -> None:
    team.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(6)))
    people = [team.person(f"n{i}") for i in range(4)]
    failed: list[BaseException] = []
    together = threading.Barrier(len(people))

    def work(person: Person) -> None:
        try:
            together.wait(30)
            while item := queue.take(team.config.store, person, RULES):
                submit(team, person, item)
        except BaseException as error:  # a thread's error must not vanish
            failed.append(error)

    threads = [threading.Thread(target=work, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    with team.config.store.read() as session:
        counts = session.execute(select(Label.item_id, func.count()).group_by(Label.item_id)).all()
        pairs = session.execute(select(Label.item_id, Label.person_id).distinct()).all()
    assert [count for _, count in counts] == [2] * 6, "each task twice, as overlap says"
    assert len(pairs) == 12, "by two different people"


def test_the_same_person_in_two_tabs_has_one_task(team: Any) -> None:
    team.add({"prompt": "p", "responses": ["x", "y"]}, {"prompt": "q", "responses": ["x", "y"]})
    ann = team.person("ann")
    taken = {queue.take(team.config.store, ann, RULES).id for _ in range(3)}  # type: ignore[union-attr]
    assert len(taken) == 1


def test_an_expired_lease_goes_to_others_and_the_late_answer_is_kept(make_site: Any, database: str) -> None:
    site = make_site(database, overlap=1, gold_every=0)
    site.add({"prompt": "p", "responses": ["x", "y"]})
    ann, bob = site.person("ann"), site.person("bob")
    store = site.config.store
    item = queue.take(store, ann, RULES)
    assert queue.take(store, bob, RULES) is None
    with store.write() as session:
        assert queue.heartbeat(session, ann, item.id, RULES)
    expire(store)
    assert queue.take(store, bob, RULES).id == item.id
    with store.write() as session:
        assert not queue.heartbeat(session, ann, item.id, RULES)
    submit(site, ann, item)
    submit(site, bob, item)
    assert [row["labeler"] for row in site.records()] == ["ann", "bob"]
    assert queue.take(store, ann, RULES) is None and queue.take(store, bob, RULES) is None


def test_nobody_judges_their_own_text(team: Any) -> None:
    ann, bob = team.person("ann"), team.person("bob")
    team.add({"prompt": "p", "responses": [{"text": "x", "author": "ann"}, "y"]})
    assert queue.take(team.config.store, ann, RULES) is None
    assert queue.take(team.config.store, bob, RULES) is not None


def test_priority_comes_first_and_a_skipped_task_goes_to_others(team: Any) -> None:
    low, high = team.add(
        {"prompt": "low", "responses": ["x", "y"]},
        {"prompt": "high", "responses": ["x", "y"], "priority": 0.5},
    )
    ann, bob = team.person("ann"), team.person("bob")
    store = team.config.store
    item = queue.take(store, ann, RULES)
    assert item.id == high
    submit(team, ann, item, content={"reason": "expertise"}, skip=True)
    assert queue.take(store, ann, RULES).id == low, "a skipped task does not come back"
    assert queue.take(store, bob, RULES).id == high


def test_gold_comes_to_everybody_in_its_turn_and_never_trains(make_site: Any, database: str) -> None:
    site = make_site(database, overlap=1, gold_every=2)
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(8)))
    (gold,) = site.add({"prompt": "known", "responses": ["x", "y"], "gold": [2, 1]})
    for name in ("ann", "bob"):
        person, seen = site.person(name), []
        for _ in range(4):
            item = queue.take(site.config.store, person, site.config.rules)
            seen.append(item.id)
            submit(site, person, item)
        assert gold in seen[1:3] and seen.count(gold) == 1, "after one or two others, as drawn"
    assert {row["prompt"] for row in site.records()} == {f"p{i}" for i in range(6)}


def test_a_submission_that_is_sent_twice_is_one_label(team: Any) -> None:
    team.add({"prompt": "p", "responses": ["x", "y"]})
    ann, bob = team.person("ann"), team.person("bob")
    item = queue.take(team.config.store, ann, RULES)
    first = submit(team, ann, item, submission="a" * 32)
    assert submit(team, ann, item, submission="a" * 32).id == first.id
    with pytest.raises(labels.NotYours):
        submit(team, bob, item, submission="a" * 32)
    with pytest.raises(UserError, match="answered this task already"):
        submit(team, ann, item)
    assert len(team.records()) == 1


def test_reopening_keeps_the_history(team: Any) -> None:
    team.add({"prompt": "p", "responses": ["x", "y"]})
    ann = team.person("ann")
    item = queue.take(team.config.store, ann, RULES)
    first = submit(team, ann, item)
    with team.config.store.write() as session:
        labels.reopen(session, ann, first.id)
    assert len(team.records()) == 1, "it stands until there is another one"
    assert queue.take(team.config.store, ann, RULES).id == item.id
    second = submit(team, ann, item, content={**PAIR, "ranks": [1, 1]})
    with team.config.store.read() as session:
        kinds = session.execute(select(Label.kind, Label.replaces).order_by(Label.id)).all()
    assert [tuple(row) for row in kinds] == [("rank", None), ("rank", first.id)]
    assert second.replaces == first.id
    assert [row["ranks"] for row in team.records()] == [[1, 1]]


@pytest.mark.parametrize("change", ["UPDATE label SET seconds = 0", "DELETE FROM label"])
def test_not_even_sql_changes_a_label(team: Any, change: str) -> None:
    team.add({"prompt": "p", "responses": ["x", "y"]})
    ann = team.person("ann")
    submit(team, ann, queue.take(team.config.store, ann, RULES))
    with pytest.raises(DBAPIError, match="only ever added to"), team.config.store.write() as session:
        session.execute(text(change))
    assert len(team.records()) == 1


def test_the_same_task_is_added_once_and_tables_are_made_once(team: Any, database: str) -> None:
    row = {"prompt": "p", "responses": ["x", "y"]}
    assert len(team.add(row, row, {**row, "kind": "compare"})) == 2
    again = Store(database)
    with again.read() as session:
        assert session.scalar(select(func.count()).select_from(Item)) == 2
    assert again.secret() == team.config.secret
    again.close()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "responses": ["x"] * 10}, "responses"),
        ({"prompt": "p", "responses": ["x", ""]}, "is empty"),
        ({"prompt": "p", "kind": ["rank"]}, "must be one of rank"),
        ({"prompt": "p", "kind": "rank", "responses": ["x"]}, "has 1: a task to rank has 2 to 9"),
        ({"prompt": "p", "responses": ["x", "y"], "gold": [1]}, "ranks"),
        ({"prompt": "p", "overlap": 1.5}, "whole number"),
        ({"prompt": "p\0"}, "NUL"),
        ({"prompt": "p", "responses": [{"text": "x", "author": "nobody"}, "y"]}, "nobody is called"),
        ({"nothing": 1}, "no known format"),
    ],
)
def test_a_bad_task_is_refused_by_its_field(site: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        site.add({"prompt": "good"}, row)
    with site.config.store.read() as session:
        assert session.scalar(select(func.count()).select_from(Item)) == 0, "all or none"


def test_an_unreadable_database_is_told(tmp_path: Any) -> None:
    (tmp_path / "no.db").write_text("this is a text, and a rather long one at that, not a database" * 20)
    with pytest.raises(UserError, match="cannot be opened: file is not a database"):
        Store(str(tmp_path / "no.db"))
    with pytest.raises(UserError, match="mysql is no database"):
        Store("mysql://host/name")
