"""What people write over a policy's answer in a talk is checked as an answer to a task is, and kept so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

# Behind the skip above: without the extra these cannot be imported.
from labeling_app import Site  # noqa: E402
from sqlalchemy import text  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402
from talking_app import told, user, with_policies  # noqa: E402

from labeling.store import checks as store  # noqa: E402

RULE = {"name": "short", "max_characters": 10}


@pytest.fixture
def talking(make_site: Callable[..., Site], policy: Any, tmp_path: Any) -> Iterator[Site]:
    judge = tmp_path / "judges.py"
    judge.write_text(
        "def longer(prompts, responses):\n    return [len(t) + len(prompts[0]) for t in responses]\n"
    )
    site = with_policies(
        make_site(checks=[RULE, {"function": f"{judge}:longer", "name": "longer"}]), policy()
    )
    yield site
    site.app.state.checking.close()


def written(asked: list[Any], answer: dict[str, Any], said: str, **more: Any) -> dict[str, Any]:
    given = {"messages": asked, "answer": answer["text"], "origin": answer["origin"], "seal": answer["seal"]}
    return {**given, "text": said, **more}


def kept(client: Any, given: dict[str, Any], submission: str) -> None:
    sent = {**given, "submission": submission * 32, "seconds": 1.0}
    assert client.post("/chat/correct", json=sent).status_code == 200


def test_a_correction_says_that_it_was_checked(talking: Site) -> None:
    ann, bob = talking.signed_in("ann"), talking.signed_in("bob")
    first, second = [user("hi")], [user("and you?")]
    (_, one), (_, two) = told(ann, *first), told(ann, *second)
    long = written(first, one, "far too long a text")
    said = ann.post("/chat/check", json={**long, "check": "short"}).json()
    assert said == {"passed": False, "says": "It has 19 characters; 10 are the most."}
    said = ann.post("/chat/check", json={**long, "check": "longer"}).json()
    assert said == {"score": 21.0, "above": 1, "of": 1}, (
        "above what the policy said; the prompt has 2 letters"
    )
    kept(ann, written(first, one, "short"), "a")
    kept(ann, written(second, two, "unasked"), "b")
    assert [row.get("checks") for row in talking.records("demonstrations")] == [["longer", "short"], None]
    labels = talking.signed_in("eve", "admin").get("/api/v1/labels").json()["labels"]
    assert [(c["name"], c["changed"]) for c in labels[0]["checks"]] == [("short", True), ("longer", True)]
    assert labels[1]["checks"] is None
    # as a task, too, and corrected again: all that was asked before is on the label
    assert ann.post("/chat/check", json={**written(first, one, "at last"), "check": "short"}).json()["passed"]
    kept(ann, written(first, one, "at last"), "c")
    labels = ann.get("/api/v1/labels")
    assert labels.status_code == 403
    (row,) = (row for row in talking.records("demonstrations") if row["response"] == "at last")
    assert row["checks"] == ["longer", "short"]
    # what the policy did not say to this person is not checked
    assert bob.post("/chat/check", json={**long, "check": "short"}).status_code == 409
    assert ann.post("/chat/check", json={**long, "answer": "other", "check": "short"}).status_code == 409
    assert ann.post("/chat/check", json={**long, "check": "none"}).status_code == 404
    assert ann.post("/chat/check", json={**long, "text": " ", "check": "short"}).status_code == 422


def test_checks_in_a_talk_have_an_end_and_stay_as_they_are(
    talking: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_CHECKS", 2)
    ann = talking.signed_in("ann")
    asked = [user("hi")]
    _, answer = told(ann, *asked)
    given = written(asked, answer, "x", check="short")
    assert [ann.post("/chat/check", json=given).status_code for _ in range(3)] == [200, 200, 409]
    for change in ("UPDATE answer_check SET said = '{}'", "DELETE FROM answer_check"):
        with pytest.raises(DBAPIError, match="only ever added to"), talking.config.store.write() as session:
            session.execute(text(change))


def test_without_checks_nothing_is_offered(make_site: Callable[..., Site], policy: Any, visit: Any) -> None:
    site = with_policies(make_site(), policy())
    page = visit(site, site.person("ann"))
    page.goto("/chat")
    page.get_by_label("Your message").fill("hi")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="This is wrong").click()
    page.get_by_label("What it should have said").wait_for()
    assert page.get_by_role("button", name="Check my text").count() == 0


def test_in_a_browser(talking: Site, visit: Any) -> None:
    page = visit(talking, talking.person("ann"))
    page.goto("/chat")
    page.get_by_label("Your message").fill("hi")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="This is wrong").click()
    page.get_by_label("What it should have said").fill("far too long a text")
    page.get_by_role("button", name="Check my text").click()
    found = page.locator(".checks li")
    page.get_by_text("10 are the most").wait_for()
    page.get_by_text("21, above 1 of the 1 response").wait_for()
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    assert axe.Axe().run(page).response["violations"] == []
    page.get_by_label("What it should have said").fill("short")
    assert found.first.inner_text().endswith("of an earlier version")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("Kept as a demonstration").wait_for()
    assert [row.get("checks") for row in talking.records("demonstrations")] == [["longer", "short"]]
