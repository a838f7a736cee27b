"""What somebody tries who means harm: fields that no page sends, every place of the talk, names, formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

# Behind the skip above: without the extra these cannot be imported.
from fastapi.routing import APIRoute  # noqa: E402
from labeling_app import Site  # noqa: E402
from sqlalchemy import select  # noqa: E402
from talking_app import asking, user  # noqa: E402

from labeling.store import sheets  # noqa: E402
from labeling.store.models import Draft, Label  # noqa: E402
from labeling.store.names import skeleton  # noqa: E402
from labeling.web import (  # noqa: E402
    audit,
    calibration,
    chat,
    checks,
    figures,
    guideline,
    manage,
    review,
    signin,
    tasks,
    work,
    worktime,
)

HTML = {"Accept": "text/html"}
PARTS = (audit, calibration, chat, checks, figures, guideline, manage, review, tasks, work, worktime)
RANKED = {"ranks": [1, 2], "quality": [None] * 2, "flags": [[], []]}
DIGITS = "9" * 5000  # int() refuses so many
WRITES = [
    ("/labels/1/verdict", {"said": "rejected"}, ("remark", "last", "back", "said")),
    ("/people/1/labels/accept", {"back": "/"}, ("label", "back")),
    ("/people/1/abilities", {"skills": "a"}, ("skills", "languages")),
    ("/people/1/account", {"what": "rename", "name": "x"}, ("what", "name")),
    ("/people/1/calibration", {"said": "again"}, ("said",)),
    ("/people/1/role", {"role": "labeler"}, ("role",)),
    ("/people/invite", {"role": "machine", "name": "b"}, ("role", "name")),
    ("/guideline/edit", {"text": "t", "base": "b", "what": "preview"}, ("text", "base", "remark", "what")),
    ("/guideline/edit", {"text": "t", "base": "b", "what": ""}, ("text", "base", "remark", "what")),
    *(
        ("/tasks/change", {"action": action, "task": "1", "confirmed": "1"} | more, fields)
        for action, more, fields in [
            ("hide", {}, ("task", "scope", "kind", "state", "confirmed")),
            ("priority", {"priority": "1"}, ("priority",)),
            ("overlap", {"overlap": "1"}, ("overlap",)),
            ("assign", {"people": "ann"}, ("people", "skills", "language")),
        ]
    ),
]


@pytest.fixture
def team(make_site: Callable[..., Any], database: str) -> Any:
    site = make_site(database, gold_every=0)
    site.add({"prompt": "p", "responses": ["x", "y"]}, {"prompt": "q", "responses": ["x", "y"]})
    ann = site.signed_in("ann")
    assert site.answer(ann, RANKED).status_code == 200
    return site


@pytest.mark.parametrize(
    "value", ["a\0b", DIGITS, "-1", "1e309", "２", "²", "𝟙" * 50, "\u202e", "%00", "x" * 60_000]
)
def test_no_field_of_a_leads_form_breaks_the_app(team: Any, value: str) -> None:
    eve = team.signed_in("eve", "admin")
    version = eve.get("/guideline/edit", headers=HTML).text.split('name="base" value="')[1][:64]
    for path, usual, fields in WRITES:
        for field in fields:
            given = {**usual, "base": version, field: value} if "base" in usual else {**usual, field: value}
            found = eve.post(path, data=given, headers=HTML)
            assert found.status_code < 500, (path, field, found.text[-300:])


@pytest.mark.parametrize(
    "body", ['{"a":' * 50_000 + "1", f'{{"a": {DIGITS}}}', "[" * 100_000, '{"a": "\\ud800"}', "", "\xff"]
)  # fmt: skip
def test_no_body_of_json_breaks_the_app(team: Any, body: str) -> None:
    ann = team.signed_in("bob")
    number = team.taken(ann)["number"]
    head = {"Content-Type": "application/json"}
    for path in (f"/work/{number}/draft", f"/work/{number}/answer", "/work/preview", "/chat/answer"):
        found = ann.post(path, content=body.encode("latin-1"), headers=head)
        assert found.status_code < 500 or found.status_code == 503 and "policy" in found.text, (
            path,
            found.text,
        )


def routes(number: int = 1, **ids: int) -> list[tuple[str, str]]:
    """Every route of a session as method and path; `number`: what a task's page is called by.

    ids: of the item, label and person that paths name, 1 without.
    """
    found = []
    for part in (*PARTS, signin):
        for router in (part.router, getattr(part, "own", None)):
            for route in router.routes if router is not None else ():
                assert isinstance(route, APIRoute)
                path = route.path
                if path.startswith(("/signin", "/join", "/language")):
                    continue  # for those who have no session
                path = path.replace("{number}", str(number)).replace("{form}", "csv")
                for name in ("item", "label", "person"):
                    path = path.replace(f"{{{name}}}", str(ids.get(name, 1)))
                found += [(m, path) for m in route.methods - {"HEAD"}]
    return found


def writing() -> list[tuple[str, str]]:
    """Those that are no mere reading."""
    return [(method, path) for method, path in routes() if method != "GET"]


@pytest.mark.parametrize("role", ["labeler", "nobody"])
def test_no_page_shows_a_labeler_or_a_stranger_what_others_did(team: Any, role: str) -> None:
    team.add(*({"prompt": f"r{i}", "responses": ["x", "y"]} for i in range(2)))
    bob = team.signed_in("bob")
    words = {**RANKED, "note": "BOBS NOTE", "edit": {"response": 0, "text": "BOBS WORDS"}}
    done = team.taken(bob)
    assert team.answer(bob, words, task=done).status_code == 200
    task = team.taken(bob)
    draft = f"/work/{task['number']}/draft?revision={task['revision']}"
    assert bob.post(draft, json={"note": "BOBS DRAFT"}).status_code == 200
    with team.config.store.read() as session:
        label = session.scalars(select(Label.id).where(Label.person_id == done["person"])).one()
    his = {"item": done["item"], "label": label, "person": done["person"]}
    eve = team.signed_in("eve", "admin")
    seen = {path for method, path in routes(**his) if method == "GET" and "BOBS" in eve.get(path).text}
    assert len(seen) > 2, "who may see it does, at these very addresses"
    other = team.client() if role == "nobody" else team.signed_in("joe")
    for number in (done["number"], task["number"]):
        for method, path in routes(number, **his):
            if (method, path) == ("POST", "/signout"):
                continue
            given = {} if method == "GET" else {"json": dict(words)}
            for headers in ({}, HTML):
                found = other.request(method, path, headers=headers, **given)
                assert "BOBS" not in found.text and found.status_code < 500 or found.status_code == 503, path
                if role == "nobody" and not headers:
                    assert found.status_code == 401, (method, path)
    with team.config.store.read() as session:
        held = session.scalars(select(Draft.content).where(Draft.person_id == task["person"])).all()
        assert {"note": "BOBS DRAFT"} in held, "nobody else wrote into it"


def test_every_write_of_a_session_needs_its_csrf_token(team: Any) -> None:
    eve = team.signed_in("eve", "admin")
    eve.headers.pop("X-CSRF-Token")
    assert (
        len(writing()) >= 24 and ("POST", "/chat/choose") in writing() and ("POST", "/signout") in writing()
    )
    for method, path in writing():
        for given in (
            {"json": {}},
            {"data": {"csrf": "0" * 64, "what": "erase"}},
            {"files": {"file": ("a", b"{}")}},
        ):
            found = eve.request(method, path, **given)
            assert found.status_code == 403 and "out of date" in found.text, (method, path, given)


def test_one_person_cannot_take_all_places_of_the_talk(talking: Site) -> None:
    ann, bob = talking.signed_in("ann"), talking.signed_in("bob")
    stops = talking.app.state.stops
    for number in range(2):  # a page that was left, and the one that is open
        stops.begin(1, f"{number:032x}")
    for ask in ("f" * 32, "0" * 32):
        refused = ann.post("/chat/answer", json={**asking(user("hi")), "ask": ask})
        assert refused.status_code == 409 and "other answers" in refused.json()["detail"]
    assert bob.post("/chat/answer", json=asking(user("hi"))).status_code == 200
    stops.end(1, "0" * 32)
    for _ in range(3):  # each ends, and gives its place back
        assert ann.post("/chat/answer", json=asking(user("hi"))).status_code == 200


@pytest.mark.parametrize("start", ["＝", "＋", "－", "＠"])
def test_a_full_width_sign_begins_no_formula_either(start: str) -> None:
    (_, line) = sheets.lines(["prompt"], [{"prompt": f"{start}cmd|' /C calc'!A0"}])
    assert line.strip().strip('"').startswith(f"'{start}")


@pytest.mark.parametrize(
    ("one", "other"), [("alan", "aIan"), ("Ian", "lan"), ("marc", "rnarc"), ("willy", "vvilly")]
)
def test_letters_that_look_alike_in_one_script_are_alike(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)
