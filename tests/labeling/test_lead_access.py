"""Every route of a lead's pages refuses labelers, machines and strangers; what people write there is text."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling.store.people import new_token  # noqa: E402
from labeling.web import audit, guideline, manage, review, tasks, worktime  # noqa: E402

HTML = {"Accept": "text/html"}
ATTACK = '"><script>alert(1)</script>'
FOR_ALL = {"/guideline", "/guideline/changes", "/guideline/history"}


def routes() -> list[tuple[str, str, str]]:
    """Each method and path, with numbers in it, and its module."""
    found = []
    for module in (audit, guideline, manage, review, tasks, worktime):
        for route in module.router.routes:
            path = route.path  # type: ignore[attr-defined]
            if path in FOR_ALL:
                continue
            for part in ("item", "label", "person"):
                path = path.replace(f"{{{part}}}", "1")
            path = path.replace("{form}", "csv")
            found += [(method, path, module.__name__) for method in route.methods]  # type: ignore[attr-defined]
    return found


@pytest.fixture
def team(make_site: Any) -> Any:
    site = make_site(gold_every=0)
    site.add({"prompt": ATTACK, "responses": [ATTACK, "y"]})
    ann = site.signed_in("ann")
    content = {"ranks": [1, 2], "quality": [None] * 2, "flags": [["fails"], []], "note": ATTACK}
    assert site.answer(ann, {**content, "edit": {"response": 0, "text": ATTACK}}).status_code == 200
    return site


def test_there_are_the_routes_that_are_tried() -> None:
    paths = {path for _, path, _ in routes()}
    assert len(routes()) >= 20
    assert {"/tasks/change", "/people/1/account", "/labels/1/verdict", "/audit.csv", "/people/time"} <= paths
    assert not any("{" in path for path in paths)


@pytest.mark.parametrize("role", ["labeler", "reviewer", "machine", "stranger"])
def test_who_is_no_lead_is_refused(team: Any, role: str) -> None:
    client = team.client()
    if role == "machine":
        bot = team.person("bot", "machine")
        with team.config.store.write() as session:
            client.headers["Authorization"] = f"Bearer {new_token(session, 'api', person=bot)}"
    elif role != "stranger":
        client = team.signed_in("somebody", role)
    wanted = 401 if role == "stranger" else 403
    for method, path, module in routes():
        if role == "reviewer" and module == review.__name__:
            continue
        given = {} if method == "GET" else {"data": {"what": "erase", "said": "rejected", "name": "ann"}}
        assert client.request(method, path, **given).status_code == wanted, (method, path)
    assert len(team.records()) == 1


def test_what_people_write_is_text_on_every_page(team: Any) -> None:
    eve = team.signed_in("eve", "admin")
    ann = team.signed_in("<b>bob</b>")
    assert ann.get("/work").headers["location"] == "/"
    said = {"said": "accepted", "remark": ATTACK}
    assert eve.post("/labels/1/verdict", data=said).status_code == 303
    given = {"languages": ATTACK.replace(",", ""), "skills": "<u>"}
    assert eve.post("/people/1/abilities", data=given).status_code == 303
    wrong = eve.post("/labels/1/verdict", data={"said": "rejected", "remark": ATTACK}, headers=HTML)
    edit = {"text": ATTACK, "base": ATTACK, "remark": ATTACK}
    pages = [wrong, eve.post("/guideline/edit", data=edit, headers=HTML)]
    paths = [path for method, path, _ in routes() if method == "GET" and "." not in path]
    pages += [eve.get(path, headers=HTML) for path in paths]
    pages.append(eve.get("/tasks?state=flagged", headers=HTML))
    for page in pages:
        assert "<script>alert" not in page.text and "<b>bob" not in page.text and "<u>" not in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert " style=" not in page.text and " onclick=" not in page.text
    assert wrong.status_code == 409
