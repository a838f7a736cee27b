"""What the app does not let anybody do."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling_app import arrived  # noqa: E402
from sqlalchemy import select  # noqa: E402

from labeling.store.models import Item, Person, Token, now  # noqa: E402
from labeling.store.people import new_token  # noqa: E402
from labeling.web.markdown import safe_html  # noqa: E402
from labeling.web.security import COOKIE
from labeling.web.throttle import Throttle  # noqa: E402

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "'-alert(1)-'",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "![x](https://example.com/beacon.png)",
    '<https://example.com/"onmouseover=alert(1)>',
    "</textarea><script>alert(1)</script>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<style>*{display:none}</style>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "<a href='vbscript:x'>x</a><base href=//evil>",
    "x\u202e</div></main><form action=//evil>",
]
HTML = {"Accept": "text/html"}
PAGES = ["/", "/work", "/history", "/figures", "/guideline", "/account", "/review", "/tasks", "/people"]


def test_markdown_has_no_script_in_any_payload() -> None:
    for payload in PAYLOADS:
        for text in (safe_html(payload), safe_html(payload, breaks=False)):
            low = str(text).lower()
            assert "<script" not in low and "<img" not in low and "<svg" not in low and "<iframe" not in low
            assert "<style" not in low and "<form" not in low and "<base" not in low
            assert 'href="javascript' not in low and 'href="data' not in low and 'href="vbscript' not in low
            assert not any(f"<{tag} on" in low for tag in ("p", "a", "div"))
    assert 'href="https://example.com/"' in safe_html("[good](https://example.com/)")
    assert (
        safe_html("# Title **b**\n\n1. x")
        == '<h3 dir="auto">Title <strong>b</strong></h3>\n<ol dir="auto">\n<li>x</li>\n</ol>\n'
    )


def test_stored_payloads_run_nowhere(make_site: Callable[..., Any], visit: Any, tmp_path: Any) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("\n\n".join(PAYLOADS))
    site = make_site(guideline=str(guide))
    everything = "\n\n".join(PAYLOADS)
    site.add(
        {"prompt": everything, "responses": [everything, everything + "."], "priority": 3},
        {"prompt": everything, "responses": [everything], "priority": 2},
        {"prompt": everything},
    )
    admin = site.person('<img src=x onerror="alert(1)">', "admin")
    page = visit(site, admin)
    asked: list[str] = []
    page.on("dialog", lambda dialog: asked.append(dialog.message) or dialog.dismiss())
    outside: list[str] = []
    page.on("request", lambda r: outside.append(r.url) if "127.0.0.1" not in r.url else None)
    for path in PAGES:
        page.goto(path)
    page.goto("/work")
    page.keyboard.press("w")  # its text comes into a text field
    assert page.locator(".rewrite textarea:visible").input_value() in (everything, everything + ".")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.keyboard.press("Enter")
    arrived(page.get_by_role("heading", name="Correct the response"))
    assert page.locator("#text").input_value() == everything
    page.goto("/history")
    assert asked == [] and outside == []
    assert page.locator("main img, main script, main form[action*=evil]").count() == 0


def test_every_answer_has_a_strict_policy(site: Any) -> None:
    client = site.signed_in("ann", "admin")
    for path in [*PAGES, "/static/rank.js", "/nowhere", "/signin"]:
        policy = client.get(path, headers=HTML).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    text = client.get("/", headers=HTML).text
    assert "<script>" not in text and " onclick=" not in text and " style=" not in text
    assert client.get("/").headers["cache-control"] == "no-store"


def test_strangers_see_nothing(site: Any) -> None:
    stranger = site.client()
    for path in PAGES:
        found = stranger.get(path, headers=HTML)
        assert (found.status_code, found.headers["location"]) == (303, "/signin")
        assert stranger.get(path).status_code == 401
    for path in (
        "/work/preview",
        "/work/1/answer",
        "/work/1/draft",
        "/work/1/heartbeat",
        "/work/1/keep",
        "/reopen/1",
        "/api/v1/tasks",
    ):
        assert stranger.post(path, json={}).status_code == 401
    for path in ("/api/v1/tasks", "/api/v1/labels", "/api/v1/records/rankings.jsonl", "/api/v1/figures"):
        assert stranger.get(path).status_code == 401


def test_who_asks_is_looked_at_before_a_body_is_read(site: Any) -> None:
    torn = {"content": b"torn", "headers": {"Content-Type": "multipart/form-data"}}  # no boundary
    broken = {"content": b"{", "headers": {"Content-Type": "application/json"}}
    paths = [
        "/reopen/1",
        "/work/1/answer",
        "/tasks",
        "/people/invite",
        "/account",
        "/signout",
        "/api/v1/tasks",
    ]
    for path in [*paths, "/api/v1/tasks"]:
        for body in (torn, broken):
            assert site.client().post(path, **body).status_code == 401, path
    admin = site.signed_in("ann", "admin")
    assert admin.post("/tasks", **torn).status_code == 400
    # Its token came in a header, but a form's texts are looked at for what no database keeps.
    assert admin.post("/reopen/1", **torn).status_code == 400
    assert admin.post("/reopen/1", data={"any": "text"}).status_code == 404
    del admin.headers["X-CSRF-Token"]
    assert admin.post("/reopen/1", **torn).status_code == 400


@pytest.mark.parametrize("role", ["labeler", "reviewer", "machine"])
def test_only_admins_manage(site: Any, role: str) -> None:
    client = site.signed_in("ann", role)
    bob = site.person("bob")
    assert client.get("/tasks").status_code == client.get("/people").status_code == 403
    assert client.post("/people/invite", data={"role": "admin"}).status_code == 403
    assert client.post(f"/people/{bob.id}/role", data={"role": "admin"}).status_code == 403
    assert client.post(f"/people/{bob.id}/close").status_code == 403
    assert client.post("/tasks", files={"file": ("t.jsonl", b'{"prompt": "p"}')}).status_code == 403
    if role != "machine":
        assert client.get("/api/v1/labels").status_code == 403
        assert client.post("/api/v1/tasks", json=[{"prompt": "p"}]).status_code == 403


def test_a_machines_token_is_no_way_to_work_as_a_person(site: Any) -> None:
    (item,) = site.add({"prompt": "p", "responses": ["x", "y"]})
    bot = site.person("bot", "machine")
    with site.config.store.write() as session:
        token = new_token(session, "api", person=bot)
    client = site.client()
    client.headers["Authorization"] = f"Bearer {token}"
    for path in ("/", "/work", "/history", "/figures", "/guideline", "/account", "/answered/1"):
        assert client.get(path).status_code == 403, path
    work = f"/work/{site.number(item)}"
    for path in (f"{work}/heartbeat", f"{work}/draft", f"{work}/keep", "/reopen/1"):
        assert client.post(path, json={}).status_code == 403, path
    assert client.post("/account", data={"password": "long enough password"}).status_code == 403
    assert client.get("/api/v1/tasks").status_code == 200
    guess = {"name": "bot", "password": "long enough password"}
    assert site.client().post("/signin", data=guess).status_code == 401


def test_tasks_and_labels_of_others_are_out_of_reach(site: Any) -> None:
    (item,) = site.add({"prompt": "p", "responses": ["x", "y"]})
    ann, bob = site.signed_in("ann"), site.signed_in("bob")
    content = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}
    task = site.taken(ann)
    assert site.answer(bob, content, task=task).status_code == 404, "it was never given to bob"
    assert bob.post(f"/work/{task['number']}/draft", json={"note": "x"}).status_code == 404
    assert bob.post(f"/work/{task['number']}/heartbeat", json={}).json() == {"held": False}
    label = site.answer(ann, content, task=task).json()["label"]
    assert bob.post(f"/reopen/{label}", json={}).status_code == 404
    assert site.answer(bob, content, task=task, adjudicates=True).status_code == 403
    assert "p" not in bob.get("/history", headers=HTML).text.split("<main")[1].split()
    assert len(site.records()) == 1


def test_a_write_needs_the_csrf_token(site: Any) -> None:
    site.add({"prompt": "p", "responses": ["x", "y"]})
    client = site.signed_in("ann", "admin")
    token = client.headers.pop("X-CSRF-Token")
    for given in ("", "0" * 64, site.signed_in("bob").headers["X-CSRF-Token"]):
        for path in ("/signout", "/people/invite", "/account"):
            assert client.post(path, data={"csrf": given, "role": "admin"}).status_code == 403
        assert client.post("/work/1/heartbeat", json={}, headers={"X-CSRF-Token": given}).status_code == 403
    assert client.post("/people/invite", data={"csrf": token, "role": "labeler"}).status_code == 200
    assert client.post("/signout", data={"csrf": token}).status_code == 303


def test_a_session_is_new_at_each_sign_in_and_ends_at_sign_out(site: Any) -> None:
    ann = site.person("ann", password="long enough password")
    client = site.client()
    client.cookies.set(COOKIE, "planted-by-somebody.signature")
    assert client.post("/signin", data={"name": "ann", "password": "long enough password"}).status_code == 303
    cookie = client.cookies.get(COOKIE, domain="localhost.local") or client.cookies.get(COOKIE, domain="")
    cookies = [c.value for c in client.cookies.jar if c.name == COOKIE]
    assert cookie or cookies
    assert "planted-by-somebody.signature" not in [c for c in cookies if "." in c and len(c) > 40]
    value = max(cookies, key=len)
    thief = site.client()
    thief.cookies.set(COOKIE, value[:-2] + "xx")
    assert thief.get("/account").status_code == 401, "a cookie that we did not sign"
    thief = site.client()
    thief.cookies.set(COOKIE, value)
    csrf = thief.get("/session").json()["csrf"]
    assert thief.post("/signout", data={"csrf": csrf}).status_code == 303
    again = site.client()
    again.cookies.set(COOKIE, value)
    assert again.get("/account").status_code == 401, "signed out on the server, not only in the browser"
    assert ann.id


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(site: Any) -> None:
    reply = site.client().post(site.link(site.person("ann")))
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie


def test_links_work_once_and_only_by_post(site: Any) -> None:
    link = site.link(site.person("ann"))
    for _ in range(3):
        assert site.client().get(link, headers=HTML).status_code == 200, "a preview uses nothing up"
    assert site.client().post(link).status_code == 303
    assert site.client().post(link).status_code == 410
    with site.config.store.write() as session:
        old = new_token(session, "signin", person=session.get(Person, 1), lasts=timedelta(seconds=-1))
    assert site.client().post(f"/signin/{old}").status_code == 410


def test_an_invitation_gives_its_role_to_one_person(site: Any) -> None:
    admin = site.signed_in("root", "admin")
    text = admin.post("/people/invite", data={"role": "reviewer"}).text
    path = "/join/" + text.split("/join/")[1].split("<")[0]
    guest = site.client()
    assert guest.post(path, data={"name": "eve", "password": "short"}).status_code == 409
    assert guest.post(path, data={"name": "root", "password": "long enough"}).status_code == 409
    assert (
        guest.post(path, data={"name": "eve", "password": "long enough", "role": "admin"}).status_code == 303
    )
    assert site.client().post(path, data={"name": "mal", "password": "long enough"}).status_code == 410
    with site.config.store.read() as session:
        eve = session.scalar(select(Person).where(Person.name == "eve"))
        assert eve.role == "reviewer" and "long enough" not in eve.password
    admin.post(f"/people/{eve.id}/close")
    assert guest.get("/account").status_code == 401, "a closed account's sessions end"


def test_secrets_are_kept_as_hashes(site: Any) -> None:
    link = site.link(site.person("ann"))
    client = site.client()
    client.post(link)
    secrets = [
        link.rsplit("/", 1)[1],
        *(c.value.split(".")[0] for c in client.cookies.jar if c.name == COOKIE),
    ]
    with site.config.store.read() as session:
        kept = json.dumps([[t.hash, t.kind, t.role] for t in session.scalars(select(Token))])
    assert len(secrets) == 2 and not any(secret in kept for secret in secrets)


def test_guessing_is_slowed(site: Any) -> None:
    site.person("ann", password="long enough password")
    client = site.client()
    codes = [
        client.post("/signin", data={"name": "ann", "password": f"guess {i}"}).status_code for i in range(8)
    ]
    assert codes[:5] == [401] * 5 and codes[-1] == 429
    right = client.post("/signin", data={"name": "ann", "password": "long enough password"})
    assert right.status_code == 429 and int(right.headers["retry-after"]) >= 1
    assert 429 in [client.post(f"/signin/{i}").status_code for i in range(8)]


def test_the_wait_doubles_and_ends() -> None:
    clock = [0.0]
    throttle = Throttle(free=2, longest=60, clock=lambda: clock[0])
    waits = []
    for _ in range(10):
        throttle.failed("a")
        waits.append(throttle.wait("a"))
    assert waits[:5] == [0, 1, 2, 4, 8] and waits[-1] == 60
    assert throttle.wait("b") == 0
    clock[0] = 61
    assert throttle.wait("a", "b") <= 0


def test_a_request_that_is_too_large_is_refused(make_site: Callable[..., Any]) -> None:
    site = make_site(upload_limit=1)
    client = site.signed_in("ann", "admin")
    large = io.BytesIO(b'{"prompt": "' + b"x" * 2**20 + b'"}')
    assert client.post("/tasks", files={"file": ("t.jsonl", large)}).status_code == 413

    def stream() -> Any:
        for _ in range(20):
            yield b" " * 2**16

    found = client.post("/api/v1/tasks", content=stream(), headers={"Content-Type": "application/json"})
    assert found.status_code == 413, "also where the length was not told"
    assert client.post("/tasks", files={"file": ("t.jsonl", b'{"prompt": "p"}')}).status_code == 200
    (item,) = site.add({"prompt": "q"})
    site.taken(client)
    assert (
        client.post(f"/work/{site.number(item - 1)}/draft", json={"text": "x" * 500_000}).status_code == 413
    )


def test_names_and_texts_that_look_like_sql_are_texts(make_site: Callable[..., Any], database: str) -> None:
    site = make_site(database)
    evil = "x'); DROP TABLE label; --"
    site.add({"prompt": evil, "responses": [evil, evil + '"'], "meta": {evil: evil}})
    client = site.signed_in(evil, "admin")
    content = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []], "note": evil}
    assert site.answer(client, content).status_code == 200
    assert client.post("/signin", data={"name": "' OR 1=1 --", "password": "' OR 1=1 --"}).status_code == 401
    found = client.get("/api/v1/records/rankings.jsonl", params={"labeler": "' OR 1=1 --"})
    assert found.text == ""
    assert client.get("/api/v1/records/rankings.jsonl", params={"guideline": "%"}).status_code == 422
    (row,) = site.records(labelers=[evil])
    assert row["prompt"] == evil and row["labeler"] == evil


def test_what_no_database_can_look_for_is_nobody(make_site: Callable[..., Any], database: str) -> None:
    site = make_site(database)
    client = site.signed_in("ann", "admin")
    assert site.client().post("/signin", data={"name": "a\0b", "password": "x"}).status_code == 401
    for path in (f"/people/{10**30}/close", f"/people/{10**30}/role"):
        assert client.post(path, data={"role": "labeler"}).status_code == 422
    found = client.get("/api/v1/records/rankings.jsonl", params={"labeler": "a\0b"})
    assert found.status_code == 422


@pytest.mark.parametrize(
    "value", ["NaN", "1e400", r'"\ud800"', r'"\u0000"', r'{"\ud800": 1}', "[" * 300 + "]" * 300], ids=range(6)
)
def test_what_cannot_be_stored_or_read_again_is_refused(
    make_site: Callable[..., Any], database: str, value: str
) -> None:
    site = make_site(database)
    client = site.signed_in("ann", "admin")
    as_json = {"Content-Type": "application/json"}
    task = f'[{{"prompt": "p", "responses": ["x", "y"], "meta": {{"x": {value}}}}}]'
    assert client.post("/api/v1/tasks", content=task, headers=as_json).status_code == 422
    assert client.get("/api/v1/tasks").json()["tasks"] == []
    site.add({"prompt": "p", "responses": ["x", "y"]})
    draft = f'{{"note": {value}}}'
    path = f"/work/{site.taken(client)['number']}/draft"
    is_number = value in ("NaN", "1e400")  # a draft may hold half of what somebody types
    assert client.post(path, content=draft, headers=as_json).status_code == (422 if is_number else 200)
    assert "note" not in site.taken(client)["draft"] or not is_number


def test_a_text_that_is_tables_from_end_to_end_is_shown_soon() -> None:
    begun = time.monotonic()
    assert safe_html("a|b\n-|-\n\n" * 8000).count('<table dir="auto">') == 8000
    assert time.monotonic() - begun < 10  # it took 20 s when each table was told from all that follows


def test_an_unknown_host_is_refused_on_loopback(site: Any) -> None:
    from dataclasses import replace

    from starlette.testclient import TestClient

    from labeling.serve import LOOPBACK
    from labeling.web.app import make_app

    app = make_app(replace(site.config, hosts=LOOPBACK))
    with TestClient(app, base_url="http://attacker.example") as client:
        assert client.get("/signin").status_code == 400
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/signin").status_code == 200


def test_a_machine_adds_tasks_and_reads_labels(site: Any) -> None:
    admin = site.signed_in("root", "admin")
    text = admin.post("/people/invite", data={"role": "machine", "name": "bot"}).text
    token = text.split('class="secret">')[1].split("<")[0]
    bot = site.client()
    bot.headers["Authorization"] = f"Bearer {token}"
    rows = [{"prompt": "p", "responses": ["x", {"text": "y", "origin": "sft"}], "priority": 1}]
    assert bot.post("/api/v1/tasks", json=rows).json() == {"ids": [1], "known": 0}
    assert bot.post("/api/v1/tasks", json=rows).json() == {"ids": [], "known": 1}
    assert bot.post("/api/v1/tasks", json=[{"prompt": ""}]).status_code == 422
    assert bot.get("/api/v1/tasks").json()["tasks"][0]["origins"] == [None, "sft"]
    content = {"ranks": [1, 2], "quality": [7, None], "flags": [[], ["fails"]]}
    assert site.answer(admin, content).status_code == 200
    (label,) = bot.get("/api/v1/labels").json()["labels"]
    shown = label["shown_order"]
    assert [label["content"]["ranks"][i] for i in shown] == [1, 2]
    assert [label["content"]["quality"][i] for i in shown] == [7, None]
    admin.post(f"/reopen/{label['id']}", json={})
    assert [x["kind"] for x in bot.get("/api/v1/labels").json()["labels"]] == ["rank"]
    assert len(bot.get("/api/v1/labels", params={"standing": True}).json()["labels"]) == 1, "it stands"
    assert bot.get("/people").status_code == 403
    with site.config.store.write() as session:
        session.scalar(select(Token).where(Token.kind == "api")).ended = now()
        assert session.scalar(select(Item)) is not None
    assert bot.get("/api/v1/labels").status_code == 401
