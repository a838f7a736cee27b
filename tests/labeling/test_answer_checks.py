"""Checks of one's own answer: what they say, how they are kept and told apart, that nothing waits."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from align.loop.checks import as_said, by_rule
from align.recipe.labeling import Check, Labeling

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

RULE = {"name": "short", "max_characters": 10}
FUNCTION = """
import time

def longer(prompts, responses):
    print("nobody reads this")
    return [len(text) for text in responses]

def polite(prompts, responses):
    return ["Say please." if "please" not in text else True for text in responses]

def raises(prompts, responses):
    return [1 / 0]

def slow(prompts, responses):
    time.sleep(2 if "sleep" in responses[0] else 0)
    return [1.0 for _ in responses]
"""
TASK = {"prompt": "P", "responses": ["a", "four", "seven.."]}


def by_function(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    (folder / "judges.py").write_text(FUNCTION)
    return {"function": f"{folder / 'judges.py'}:{name}", **more}


@pytest.fixture
def checked(make_site: Any) -> Any:
    """Makes a site with checks, whose processes end with the test."""
    sites = []

    def make(*checks: dict[str, Any], database: str | None = None) -> Any:
        sites.append(make_site(database, checks=list(checks)))
        return sites[-1]

    yield make
    for site in sites:
        site.app.state.checking.close()


def ask(client: Any, task: dict[str, Any], check: str, text: str) -> Any:
    return client.post(f"/work/{task['number']}/check", json={"check": check, "text": text})


def labels(site: Any) -> list[dict[str, Any]]:
    reply = site.signed_in("reader", "admin").get("/api/v1/labels")
    return list(reply.json()["labels"])


def test_a_check_is_kept_with_the_label_and_told_apart_in_exports(checked: Any, database: str) -> None:
    site = checked(RULE, database=database)
    site.add({"prompt": "P"}, {"prompt": "Q"})
    ann = site.signed_in()
    task = site.taken(ann)
    assert task["checks"] == ["short"] and "check" in task["keys"]
    said = ask(ann, task, "short", "far too long a text").json()
    assert said == {"passed": False, "says": "It has 19 characters; 10 are the most."}
    assert ask(ann, task, "short", "short").json() == {"passed": True, "says": ""}
    assert site.answer(ann, {"text": "short"}, task=task).status_code == 200
    assert site.answer(ann, {"text": "never asked, and far too long"}).status_code == 200
    first, second = labels(site)
    assert [(c["name"], c["said"]["passed"], c["changed"]) for c in first["checks"]] == [
        ("short", False, True),
        ("short", True, False),
    ]
    assert all(len(c["version"]) == len(c["text"]) == 64 and c["asked"] for c in first["checks"])
    assert second["checks"] is None
    assert [row.get("checks") for row in site.records("demonstrations")] == [["short"], None]
    page = site.signed_in("rose", "reviewer").get("/labels/1", headers={"Accept": "text/html"}).text
    assert (
        "short: It has 19 characters; 10 are the most. (changed since)" in page and "short: passed<" in page
    )
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    with pytest.raises(DBAPIError, match="only ever added to"), site.config.store.write() as session:
        session.execute(text("UPDATE answer_check SET said = '{}'"))
    figures = site.signed_in("lead", "admin").get("/api/v1/figures").json()["checks"]
    assert (figures["checked"]["answers"], figures["unchecked"]["answers"], figures["changed"]) == (1, 1, 0)


def test_a_score_lies_among_the_tasks_other_responses(checked: Any, tmp_path: Path) -> None:
    site = checked(by_function(tmp_path, "longer"), by_function(tmp_path, "polite"))
    site.add(TASK)
    ann = site.signed_in()
    task = site.taken(ann)
    assert ask(ann, task, "longer", "sixsix").json() == {"score": 6.0, "above": 2, "of": 3}
    assert ask(ann, task, "polite", "Do it").json() == {"passed": False, "says": "Say please."}
    assert ask(ann, task, "polite", "please do").json()["passed"] is True
    edit = {"response": None, "text": "sixsix!"}
    content = {"ranks": [1, 2, 3], "quality": [None] * 3, "flags": [[], [], []], "edit": edit}
    site.answer(ann, content, task=task)
    (ranking,) = site.records()
    assert ranking["checks"] == ["longer", "polite"], "of what was written while ranking, too"
    assert [c["changed"] for c in labels(site)[0]["checks"]] == [True] * 3


def test_without_checks_in_the_recipe_there_is_nothing(site: Any) -> None:
    site.add({"prompt": "P"})
    ann = site.signed_in()
    task = site.taken(ann)
    assert task["checks"] == [] and "check" not in task["keys"]
    assert 'id="checks"' not in ann.get("/work", headers={"Accept": "text/html"}).text
    assert ask(ann, task, "short", "x").status_code == 404


def test_a_check_that_fails_says_so_and_nothing_is_lost(checked: Any, tmp_path: Path) -> None:
    quick = by_function(tmp_path, "slow", timeout=0.5)
    gone = {"run": str(tmp_path / "nowhere"), "name": "gone"}
    site = checked(by_function(tmp_path, "raises"), quick, gone)
    site.add({"prompt": "P"})
    ann = site.signed_in()
    task = site.taken(ann)
    assert ask(ann, task, "slow", "quick").status_code == 200
    reasons = {"raises": "ZeroDivisionError", "slow": "longer than 0.5 seconds", "gone": "nowhere"}
    for name, why in reasons.items():
        reply = ask(ann, task, name, "sleep")
        assert reply.status_code == 503 and why in reply.json()["detail"], name
        assert reply.json()["detail"].endswith("Your answer is kept; you can send it.")
    assert ask(ann, task, "slow", "and again").status_code == 200, "it was started again"
    assert site.answer(ann, {"text": "sleep"}, task=task).status_code == 200
    kept = labels(site)[0]["checks"]
    assert [("error" in c["said"], c["changed"]) for c in kept][1:4] == [(True, False)] * 3


def test_a_slow_check_keeps_nobody_else_waiting_and_one_person_has_one(checked: Any, tmp_path: Path) -> None:
    site = checked(by_function(tmp_path, "slow"), RULE)
    site.add({"prompt": "P", "overlap": 2})
    ann, bob = site.signed_in("ann"), site.signed_in("bob")
    task, other = site.taken(ann), site.taken(bob)
    assert ask(bob, other, "slow", "warm").status_code == ask(bob, other, "short", "warm").status_code == 200
    slow = threading.Thread(target=ask, args=(ann, task, "slow", "sleep"))
    slow.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert ask(bob, other, "short", "x").status_code == 200
    assert bob.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert time.monotonic() - began < 1
    again = site.client()
    again.cookies, again.headers = ann.cookies, ann.headers
    assert ask(again, task, "short", "x").status_code == 429
    assert site.answer(again, {"text": "done"}, task=task).status_code == 200, "sent meanwhile"
    slow.join()


def test_who_may_check_what(checked: Any) -> None:
    site = checked(RULE)
    site.add({"prompt": "P"})
    task = site.taken(site.signed_in("ann"))
    eve = site.signed_in("eve")
    assert ask(eve, task, "short", "x").status_code == 404
    assert ask(eve, task, "none", "x").status_code == 404
    assert site.client().post(f"/work/{task['number']}/check", json={}).status_code == 401


@pytest.mark.parametrize(
    ("text", "says"),
    [("Foo bar", ""), ("a BAD word", "bad"), ("badly 1 and", ""), ("x", "fewest"), ("no such", "a|o\\d?$|1")],
)
def test_rules(text: str, says: str) -> None:
    check = Check(min_characters=3, forbidden=["bad"], pattern="a|o\\d?$|1")
    said = by_rule(check, text)
    assert said["passed"] == (not says) and says in said["says"]


def test_what_a_function_gives_is_understood_or_refused() -> None:
    from align.errors import UserError

    assert as_said([1, 2.5], 2) == {"scores": [1.0, 2.5]}
    assert as_said([False], 1) == {"passed": False, "says": ""}
    assert as_said([None, 3], 2)["passed"] is True
    for wrong in ([1], [float("nan"), 1], [1, "x"], [{}, {}]):
        with pytest.raises(UserError):
            as_said(wrong, 2)


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ([{}], "one of run, function and a rule"),
        ([{"run": "this", "pattern": "x"}], "keep one"),
        ([{"pattern": "("}], "no regular expression"),
        ([{"function": "nothing"}], "write my_package"),
        ([{"min_characters": 5, "max_characters": 2}], "over max_characters"),
        ([RULE, RULE], "two of checks are called short"),
    ],
)
def test_a_recipe_with_a_wrong_check_is_refused(checks: list[Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Labeling(checks=checks)
