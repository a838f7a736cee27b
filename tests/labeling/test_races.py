"""Things that happen at the same moment, in both databases."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import func, select  # noqa: E402

from labeling.answers import Answer  # noqa: E402
from labeling.store.labels import submit  # noqa: E402
from labeling.store.models import Item, Label, Person  # noqa: E402

PAIR = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    return make_site(database, overlap=1, gold_every=0)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls return, or the error that they raise; all begin together."""
    together = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(place: int, call: Callable[[], Any]) -> None:
        together.wait(30)
        try:
            results[place] = call()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_an_answer_that_comes_twice_at_once_is_one_label_and_drafts_are_in_nobodys_way(team: Any) -> None:
    team.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(4)))
    ann = team.signed_in("ann")
    for done in range(1, 5):
        task = team.taken(ann)
        submission = secrets.token_hex(16)
        path = f"/work/{task['number']}/draft"
        answer = partial(team.answer, ann, PAIR, task=task, submission=submission)
        draft = partial(ann.post, f"{path}?revision={task['revision']}", json={"note": "x"})
        replies = at_once(answer, answer, draft, draft)
        codes = [reply.status_code for reply in replies]
        assert codes[:2] == [200, 200] and sorted(codes[2:]) in ([200, 409], [409, 409]), codes
        assert replies[0].json() == replies[1].json()
        with team.config.store.read() as session:
            assert session.scalar(select(func.count(Label.id))) == done
    label = replies[0].json()["label"]
    codes = [r.status_code for r in at_once(*[lambda: ann.post(f"/reopen/{label}", json={})] * 3)]
    assert codes == [200] * 3
    assert len(team.records()) == 4, "and they stand"


def test_of_two_reviewers_at_once_the_second_is_told_and_one_word_stands(team: Any) -> None:
    team.add({"prompt": "p", "responses": ["x", "y"]})
    assert team.answer(team.signed_in("ann"), PAIR).status_code == 200
    both = [team.signed_in(name, "reviewer") for name in ("eve", "fay")]
    tasks = [team.taken_at(client, "/review/1") for client in both]
    replies = at_once(
        *(
            lambda c=c, t=t: team.answer(c, PAIR, task=t, adjudicates=True)
            for c, t in zip(both, tasks, strict=True)
        )
    )
    assert sorted(reply.status_code for reply in replies) == [200, 409], "the second one is told"
    (row,) = team.records()
    assert row["labeler"] == ("eve", "fay")[[reply.status_code for reply in replies].index(200)]


def test_first_pages_and_the_same_tasks_at_once(team: Any) -> None:
    row = {"prompt": "p", "responses": ["x", "y"]}
    added = at_once(*[lambda: team.add(row, {**row, "prompt": "q"})] * 4)
    assert sorted(map(len, added)) == [0, 0, 0, 2], added
    people = [team.signed_in(f"n{i}") for i in range(3)]
    pages = at_once(*(lambda c=c: c.get("/work") for c in people))
    assert sorted(page.status_code for page in pages) == [200, 200, 303], "nobody fails at a new guideline"


def test_numbers_of_labels_are_committed_in_their_order(team: Any) -> None:
    """Else who reads on from the last number seen would miss one."""
    first, second = team.add(*({"prompt": p, "responses": ["x", "y"]} for p in "pq"))
    people = [team.signed_in(name) for name in ("ann", "bob")]
    tasks = [team.taken(client) for client in people]
    assert {task["item"] for task in tasks} == {first, second}
    begun, wait = threading.Event(), threading.Event()

    def slow() -> None:
        with team.config.store.write() as session:
            given = Answer(content=PAIR, submission="a" * 32, guideline=None, seconds=1.0)
            person = session.get_one(Person, tasks[0]["person"])
            item = session.get_one(Item, tasks[0]["item"])
            submit(session, person, item, given, team.config.secret)
            begun.set()
            wait.wait(1)

    thread = threading.Thread(target=slow)
    thread.start()
    assert begun.wait(30)
    assert team.answer(people[1], PAIR, task=tasks[1]).json()["label"] == 2
    with team.config.store.read() as session:
        assert session.scalars(select(Label.id).order_by(Label.id)).all() == [1, 2], "1 was there before 2"
    thread.join()


def test_a_correction_that_comes_twice_at_once_is_kept(team: Any) -> None:
    from labeling.store.corrections import keep_correction

    ann = team.person("ann")
    said = {"answer": "wrong", "text": "right", "origin": "mine/ppo", "guideline": "g", "seconds": 1.0}

    def keep(submission: str, prompt: str) -> int:
        with team.config.store.write() as session:
            person = session.get_one(Person, ann.id)
            more = {"secret": "s", "submission": submission, "prompt": prompt}
            return keep_correction(session, person, **said, **more).id

    for i in range(5):
        found = at_once(*[partial(keep, secrets.token_hex(16), f"p{i}")] * 4)
        assert len(set(found)) == 1, found
        assert len(team.records("demonstrations")) == i + 1


def test_an_import_and_a_reviewer_at_once_wait_for_each_other_only_once(
    team: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.records import Ranking
    from labeling.store import labels, made_elsewhere

    first, second = team.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(2)))
    ann = team.signed_in("ann")
    for _ in range(2):  # no place is free: a further one is made while the task is locked
        assert team.answer(ann, PAIR).status_code == 200
    said = [(task, Ranking("p", ("x", "y"), (1, 2), labeler="cat")) for task in (first, second)]
    wrote, decides = threading.Event(), threading.Event()
    checked, lock_item = labels.checked, labels.lock_item
    calls: list[int] = []

    def slow_checked(*given: Any) -> Any:
        if len(given) == 3:
            calls.append(1)
        if len(calls) == 2 and not wrote.is_set():  # a label is written, a second one comes
            wrote.set()
            decides.wait(3)  # a reviewer has its task by then, if that can be
        return checked(*given)

    def told_lock(session: Any, item: int) -> bool:
        wrote.wait(10)
        found = lock_item(session, item)
        decides.set()
        return found

    monkeypatch.setattr(labels, "checked", slow_checked)
    monkeypatch.setattr(made_elsewhere, "checked", slow_checked)
    monkeypatch.setattr(labels, "lock_item", told_lock)
    eve = team.person("eve", "reviewer")

    def bring() -> int:
        with team.config.store.write() as session:
            return made_elsewhere.keep_rankings(session, said)

    def decide() -> int:
        with team.config.store.write() as session:
            item, person = session.get_one(Item, second), session.get_one(Person, eve.id)
            submission = secrets.token_hex(16)
            given = Answer(content=PAIR, submission=submission, guideline=None, seconds=1.0, adjudicates=True)
            return submit(session, person, item, given, "s").item_id

    kept, decided = at_once(bring, decide)
    assert (kept, decided) == (2, second)
