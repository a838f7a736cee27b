"""An app with a database of its own, people who are signed in, PostgreSQL, and a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


@dataclass
class Site:
    """A running app's insides, and ways in."""

    config: Any
    app: Any
    clients: list[Any] = field(default_factory=list)

    def client(self) -> Any:
        from starlette.testclient import TestClient

        client = TestClient(self.app, base_url="http://localhost", follow_redirects=False)
        self.clients.append(client)
        return client

    def person(self, name: str, role: str = "labeler", password: str | None = None) -> Any:
        from labeling.store.people import add_person

        with self.config.store.write() as session:
            return add_person(session, name, role, password)

    def link(self, person: Any) -> str:
        from labeling.store.people import new_token

        with self.config.store.write() as session:
            secret = new_token(session, "signin", person=person, lasts=timedelta(hours=1))
        return f"/signin/{secret}"

    def signed_in(self, name: str = "ann", role: str = "labeler") -> Any:
        """A client that sends its CSRF token with every request."""
        client = self.client()
        assert client.post(self.link(self.person(name, role))).status_code == 303
        client.headers["X-CSRF-Token"] = client.get("/session").json()["csrf"]
        return client

    def taken(self, client: Any) -> dict[str, Any]:
        """What the page of a client's next task knows."""
        return self.taken_at(client, "/work")

    def taken_at(self, client: Any, path: str) -> dict[str, Any]:
        """As `taken`, for any page of a task; `item` is its id."""
        from labeling.web.numbers import item_of

        page = client.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 200, page.text
        found = re.search(r'data-task="([^"]*)"', page.text)
        assert found
        task = dict(json.loads(html.unescape(found[1])))
        return task | {"item": item_of(self.config.secret, task["number"])}

    def number(self, item: int) -> int:
        """What pages call a task."""
        from labeling.web.numbers import number_of

        return number_of(self.config.secret, item)

    def order(self, task: dict[str, Any]) -> list[int]:
        """The indices of a task's responses as its page shows them."""
        from labeling.answers import drawn_order

        return drawn_order(self.config.secret, task["item"], task["person"], task["count"])

    def answer(self, client: Any, content: dict[str, Any], **more: Any) -> Any:
        """Take the next task and answer it; the response. `task`: one that was taken before."""
        task = more.pop("task", None) or self.taken(client)
        given = {"content": content, "submission": secrets.token_hex(16), "seconds": 1.0}
        given |= {"guideline": task["guideline"], **more}
        return client.post(f"/work/{task['number']}/answer", json=given)

    def add(self, *rows: dict[str, Any]) -> list[int]:
        from labeling.store.items import add_items

        with self.config.store.write() as session:
            return add_items(session, rows, self.config.settings.overlap).ids

    def records(self, kind: Any = "rankings", **filters: Any) -> list[dict[str, Any]]:
        from labeling.store.records import Filters, records

        with self.config.store.read() as session:
            return list(records(session, kind, Filters(**filters)))


@pytest.fixture
def hasty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug: nothing waits for the disk."""
    engine = pytest.importorskip("labeling.store.engine", reason="needs the `labeling` extra")
    monkeypatch.setattr(engine, "SYNCHRONOUS", "OFF")


@pytest.fixture
def make_site(tmp_path: Path, hasty_disk: None) -> Iterator[Callable[..., Site]]:
    """Makes sites; what is given are fields of the recipe's `labeling` section."""
    from align.recipe.labeling import Labeling
    from labeling.store.engine import Store
    from labeling.web.app import make_app
    from labeling.web.config import Config

    sites: list[Site] = []

    def make(database: str | None = None, **settings: Any) -> Site:
        store = Store(database or str(tmp_path / "labeling.db"))
        config = Config(store, Labeling(**settings), store.secret(), "test")
        sites.append(Site(config, make_app(config)))
        return sites[-1]

    yield make
    for site in sites:
        for client in site.clients:
            client.close()
        site.config.store.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@contextmanager
def running_postgres(fsync: bool = False) -> Iterator[str]:
    """A PostgreSQL server of our own: the address of its databases, without a name."""
    binaries = POSTGRES[-1].parent
    folder = Path("/tmp") / f"align-pg-{secrets.token_hex(4)}"  # a socket's path must be short
    folder.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, cwd="/", stdout=subprocess.DEVNULL)

    run(str(binaries / "initdb"), "-D", str(data), "-U", "align", "--auth=trust", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=200"
    options += "" if fsync else " -c fsync=off"
    run(str(binaries / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://align@/{{name}}?host={folder}"
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this test run."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running_postgres() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "labeling.db")
    import psycopg

    server = request.getfixturevalue("postgres")
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(server.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(server.format(name=name))


@pytest.fixture
def served() -> Iterator[Callable[[Site], str]]:
    """Serves a site on loopback by uvicorn; its address."""
    import uvicorn

    running: list[tuple[Any, threading.Thread]] = []

    def serve(site: Site) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(site.app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline, "the app did not start"
            time.sleep(0.02)
        running.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def arrived(found: Any) -> None:
    """Wait for what stands on a page that was walked to, and for that page's script, which keys need."""
    found.wait_for()
    found.page.wait_for_load_state("load")


@pytest.fixture
def visit(browser: Any, served: Callable[[Site], str]) -> Iterator[Callable[..., Any]]:
    """A page of the browser, signed in; anything the page complains of fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []
    addresses: dict[int, str] = {}

    def open_page(site: Site, person: Any, **options: Any) -> Any:
        address = addresses.setdefault(id(site), "") or served(site)
        addresses[id(site)] = address
        context = browser.new_context(base_url=address, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        known = re.compile("status of|ERR_CONNECTION_RESET")  # what the app or a test refused
        page.on(
            "console",
            lambda m: complaints.append(m.text) if m.type == "error" and not known.search(m.text) else None,
        )
        page.goto(site.link(person))
        page.locator(f"form[action='{urlsplit(page.url).path}'] button").click()  # in any language
        page.wait_for_url(re.compile(r"/$"))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
