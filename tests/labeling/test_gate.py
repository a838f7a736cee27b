"""A stranger stops nothing: bodies, slowness, many requests at once, and requests of other sites."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling.store.people import new_token  # noqa: E402
from labeling.web.app import make_app  # noqa: E402
from labeling.web.connections import patient  # noqa: E402
from labeling.web.gate import Limits  # noqa: E402

HTML = {"Accept": "text/html"}
JSON = {"Content-Type": "application/json"}
MIB = 2**20


def limited(site: Any, **limits: Any) -> Any:
    """The site with other limits."""
    site.app = make_app(site.config, Limits(site.config.settings.upload_limit * MIB, **limits))
    return site


def peak(reset: bool = False) -> int:
    """The most memory of this process since the last reset, in MiB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1024


def lists(size: int) -> bytes:
    """JSON that takes many times its size when it is parsed."""
    return b"[" + b"[]," * (size // 3) + b"[]]"


def test_a_large_body_is_not_parsed_for_strangers_or_labelers(site: Any) -> None:
    ann, stranger = site.signed_in("ann"), site.client()
    body = lists(20 * MIB)
    before = peak(reset=True)
    forms = "application/x-www-form-urlencoded"
    for path, kind in (("/work/1/draft", JSON["Content-Type"]), ("/signin", forms), ("/join/x", forms)):
        status = stranger.post(path, content=body, headers={"Content-Type": kind}).status_code
        assert status == (401 if path.startswith("/work") else 413), path
    for path in ("/work/1/draft", "/work/1/answer", "/reopen/1", "/tasks", "/api/v1/tasks", "/chat/answer"):
        reply = ann.post(path, content=body, headers=JSON)
        assert (reply.status_code, "at most 2 MiB" in reply.text) == (413, True), path
    told = ann.headers.pop("X-CSRF-Token")
    small = lists(MIB)
    assert ann.post("/work/1/draft", content=small, headers=JSON).status_code == 403, "not parsed either"
    assert peak() - before < 100, "MiB; one such body takes 500 when it is parsed"
    ann.headers["X-CSRF-Token"] = told
    assert ann.post("/work/1/draft", content=small, headers=JSON).status_code == 413, "too many values"


def test_counted_bytes_refuse_a_body_whose_length_is_not_told(site: Any) -> None:
    sent = 0

    def stream() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b"x" * 2**16

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.client().post("/signin", content=stream(), headers=form).status_code == 413
    assert site.signed_in("ann").post("/work/1/draft", content=stream(), headers=JSON).status_code == 413
    assert sent
    wrong = {"Content-Length": "-1"}
    assert site.client().post("/signin", content=b"", headers=wrong).status_code == 400


def test_a_body_of_very_many_values_is_refused_also_from_those_who_add_tasks(site: Any) -> None:
    admin = site.signed_in("root", "admin")
    before = peak(reset=True)
    reply = admin.post("/api/v1/tasks", content=lists(30 * MIB), headers=JSON)
    assert reply.status_code == 413 and "too many values: at most 2,000,000" in reply.json()["detail"]
    assert peak() - before < 300
    rows = [{"prompt": f"p{i}", "responses": ["x" * 2000, "y" * 2000]} for i in range(800)]
    assert len(admin.post("/api/v1/tasks", json=rows).json()["ids"]) == 800, "3 MiB of text are welcome"


def test_an_upload_over_the_limit_is_told_on_the_apps_own_page(
    make_site: Callable[..., Any], visit: Any, tmp_path: Path
) -> None:
    site = make_site(upload_limit=1)
    (tmp_path / "t.jsonl").write_bytes(b'{"prompt": "' + b"x" * 6 * MIB + b'"}')
    page = visit(site, site.person("root", "admin"))
    page.goto("/tasks")
    page.get_by_text("A file has at most 1 MiB.").wait_for()
    page.get_by_label("Add tasks from a file").set_input_files(tmp_path / "t.jsonl")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("heading", name="at most 1 MiB are allowed").wait_for()
    assert "labeling.upload_limit" in page.locator("main").inner_text()


class Raw:
    """A connection by hand."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), 10)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def status(self) -> int | None:
        """The status of the answer; None where the connection was closed without one."""
        answer = http.client.HTTPResponse(self.socket)
        try:
            answer.begin()
        except (http.client.BadStatusLine, ConnectionError):
            return None
        return answer.status


def test_large_bodies_come_one_after_another(site: Any, served: Any) -> None:
    bot = site.person("bot", "machine")
    with site.config.store.write() as session:
        bearer = new_token(session, "api", person=bot)
    address = served(limited(site, stranger=500, work=1000, large=1))
    head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {bearer}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: "
    whole = head + "2002\r\n\r\n[" + " " * 2000 + "]"
    first, second, small, third = (Raw(address) for _ in range(4))
    first.send(whole[:-1].encode())
    time.sleep(0.5)
    second.send(whole.encode())
    assert second.status() == 503
    small.send(f"{head}2\r\n\r\n[]".encode())
    assert small.status() == 200
    first.send(b"]")
    assert first.status() == 200
    third.send(whole.encode())
    assert third.status() == 200


HEAD = b"POST /signin HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"


def test_slow_bodies_end_and_others_are_served_meanwhile(site: Any, served: Any) -> None:
    address = served(limited(site, silence=1.0, grace=2.0))
    silent, dripping = Raw(address), Raw(address)
    begun = time.monotonic()
    for one in (silent, dripping):
        one.send(HEAD + b"Content-Length: 1000\r\n\r\nname=")
    dripping.socket.settimeout(0.05)
    for _ in range(60):
        try:
            dripping.send(b"a")
        except OSError:
            break
        time.sleep(0.1)
        if time.monotonic() - begun > 4:
            break
    dripping.socket.settimeout(5)
    assert dripping.status() in (408, None)
    assert silent.status() == 408
    assert time.monotonic() - begun < 6
    whole = Raw(address)
    whole.send(HEAD + b"Content-Length: 5\r\n\r\nname=")
    assert whole.status() == 401


def test_one_client_has_so_many_requests_at_once_and_others_go_on(site: Any, served: Any) -> None:
    ann = site.signed_in("ann")
    address = served(limited(site, of_address=5))
    waiting = [Raw(address) for _ in range(5)]
    for one in waiting:
        one.send(HEAD + b"Content-Length: 5\r\n\r\n")
    time.sleep(0.5)
    more = Raw(address)
    more.send(b"GET /signin HTTP/1.1\r\nHost: a\r\n\r\n")
    assert more.status() == 503
    cookie = "; ".join(f"{c.name}={c.value}" for c in ann.cookies.jar)
    signed_in = Raw(address)
    signed_in.send(f"GET /account HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n".encode())
    assert signed_in.status() == 200, "whoever has a session is counted alone"
    waiting[0].send(b"name=")
    assert waiting[0].status() == 401
    again = Raw(address)
    again.send(b"GET /signin HTTP/1.1\r\nHost: a\r\n\r\n")
    assert again.status() == 200


def test_connections_without_a_request_are_closed_and_an_address_has_so_many(site: Any) -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    protocol = patient(each=3, head_within=1.0)
    server = uvicorn.Server(uvicorn.Config(site.app, log_level="warning", http=protocol, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    try:
        begun = time.monotonic()
        idle = [Raw(address) for _ in range(3)]
        time.sleep(0.3)
        fourth = Raw(address)
        fourth.socket.settimeout(5)
        assert fourth.socket.recv(1) == b"" or pytest.fail("it was served"), "closed at once"
        assert time.monotonic() - begun < 1
        for part in (b"GET / HT", b"TP/1.1\r\n", b"Host: a\r\n"):  # never the end
            idle[0].send(part)
            time.sleep(0.2)
        assert all(one.socket.recv(1) == b"" for one in idle)
        assert time.monotonic() - begun < 3
        served = Raw(address)
        for _ in range(3):  # a connection that works stays
            served.send(b"GET /signin HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = http.client.HTTPResponse(served.socket)
            answer.begin()
            assert answer.status == 200 and answer.read()
            time.sleep(0.5)
    finally:
        server.should_exit = True
        thread.join(10)


def test_another_sites_page_signs_nobody_in(site: Any) -> None:
    site.person("mal", password="long enough password")
    given = {"name": "mal", "password": "long enough password"}
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        reply = site.client().post("/signin", data=given, headers=headers)
        assert reply.status_code == 403 and "set-cookie" not in reply.headers, headers
        link = site.link(site.person(f"p {len(headers)} {headers}"[:60]))
        assert site.client().post(link, headers=headers).status_code == 403
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}, {}):
        assert site.client().post("/signin", data=given, headers=headers).status_code == 303, headers


def test_a_form_of_ours_is_ours_in_a_real_browser_and_another_sites_is_not(
    site: Any, visit: Any, tmp_path: Path
) -> None:
    site.person("mal", password="long enough password")
    page = visit(site, site.person("ann"))  # signed in by our own form
    address = page.url
    evil = tmp_path / "evil.html"
    fields = "".join(
        f'<input name="{k}" value="{v}">'
        for k, v in {"name": "mal", "password": "long enough password"}.items()
    )
    evil.write_text(f'<form method="post" action="{address}signin">{fields}<button>Win</button></form>')
    page.goto(evil.as_uri())
    page.get_by_role("button", name="Win").click()
    page.get_by_role("heading", name="another site").wait_for()
    page.goto(address + "account")
    page.get_by_role("heading", name="ann").wait_for()
    assert json.loads(page.request.get(address + "session").text())["person"] == 2
