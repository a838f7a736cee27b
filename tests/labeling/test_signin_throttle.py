"""Guessing is slowed, and nobody is locked out by what others do elsewhere; sessions and links."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from dataclasses import replace  # noqa: E402

from starlette.testclient import TestClient  # noqa: E402

from labeling.web.app import make_app  # noqa: E402
from labeling.web.security import network_of  # noqa: E402
from labeling.web.throttle import Door, Throttle  # noqa: E402

PASSWORD = "long enough password"
RIGHT = {"name": "admin", "password": PASSWORD}


def client_at(site: Any, address: str) -> Any:
    client = TestClient(
        site.app, base_url="http://localhost", follow_redirects=False, client=(address, 50000)
    )
    site.clients.append(client)
    return client


@pytest.fixture
def still(site: Any) -> Any:
    """The site with clocks that stand, so that no wait ends while a slow machine asks."""
    site.app.state.door = Door(clock=lambda: 0.0)
    site.app.state.wrong_links = Throttle(clock=lambda: 0.0)
    return site


def statuses(client: Any, names: list[str]) -> list[int]:
    return [client.post("/signin", data={"name": name, "password": "guess"}).status_code for name in names]


def test_nobody_locks_a_name_out_from_elsewhere(still: Any) -> None:
    still.person("admin", "admin", PASSWORD)
    guesses = statuses(client_at(still, "192.0.2.1"), ["admin"] * 5 + [" admin  "])
    assert guesses == [401] * 5 + [429], "spaces make no other name"
    assert client_at(still, "192.0.2.1").post("/signin", data=RIGHT).status_code == 429
    assert client_at(still, "192.0.2.2").post("/signin", data=RIGHT).status_code == 303


def test_forty_names_from_one_address_are_slowed_and_a_known_browser_there_is_not(still: Any) -> None:
    still.person("admin", "admin", PASSWORD)
    known = client_at(still, "192.0.2.1")
    assert known.post("/signin", data=RIGHT).status_code == 303
    names = [f"name {i}" for i in range(40)]
    found = statuses(client_at(still, "192.0.2.1"), names)
    assert found[:20] == [401] * 20 and found[-19:] == [429] * 19
    assert client_at(still, "192.0.2.1").post("/signin", data=RIGHT).status_code == 429
    assert known.post("/signin", data=RIGHT).status_code == 303, "it is the same address, and a known browser"
    assert known.post("/signin", data={"name": "bob", "password": "guess"}).status_code == 429
    assert client_at(still, "192.0.2.2").post("/signin", data=RIGHT).status_code == 303


def test_an_own_account_between_guesses_does_not_help() -> None:
    door = Door(clock=lambda: 0.0)
    tries = 0
    while door.enter(f"name {tries}", "a") == 0 and tries < 100:
        tries += 1
        if door.enter("mine", "a") == 0:
            door.succeeded("mine", "a")
    assert tries == 20


def test_guesses_everywhere_slow_every_try_and_refuse_none() -> None:
    clock = [0.0]
    door = Door(clock=lambda: clock[0])
    for i in range(200):
        assert door.enter(f"name {i}", f"address {i}") == 0
    assert door.delay() == 5.0 and door.enter("admin", "home") == 0
    assert door.delay("a known browser") == 0.0
    clock[0] = 61.0
    assert door.delay() == 0.0
    clock[0] = 5000.0
    assert all(door.enter("admin", "home") == 0 for _ in range(5)), "after an hour failures are forgotten"


def test_tries_at_the_same_moment_are_counted_before_they_are_answered() -> None:
    door = Door(clock=lambda: 0.0)
    assert sum(door.enter("admin", "a") == 0 for _ in range(100)) == 5


def test_a_wrong_link_locks_nobody(still: Any) -> None:
    client = client_at(still, "192.0.2.1")
    still.person("admin", "admin", PASSWORD)
    wrong = [client.post(f"/signin/{i}").status_code for i in range(8)]
    assert wrong[:5] == [410] * 5 and wrong[-1] == 429
    assert client.post(still.link(still.person("ann"))).status_code == 303, "a right one works"
    assert client_at(still, "192.0.2.1").post("/signin", data=RIGHT).status_code == 303


def test_addresses_of_one_ipv6_network_count_together() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("192.0.2.1") == network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("fe80::1%eth0") == "fe80::/64" and network_of("testclient") == "testclient"


def test_a_new_password_ends_the_other_sessions_and_links(make_site: Any, database: str) -> None:
    site = make_site(database)
    ann = site.person("ann", password=PASSWORD)
    bob = site.signed_in("bob")
    here, there = site.client(), site.client()
    for client in (here, there):
        assert client.post("/signin", data={"name": "ann", "password": PASSWORD}).status_code == 303
    link = site.link(ann)
    here.headers["X-CSRF-Token"] = here.get("/session").json()["csrf"]
    changed = {"old": PASSWORD, "password": "another long password"}
    assert here.post("/account", data={"old": "wrong", "password": "another long one"}).status_code == 409
    assert there.get("/account").status_code == 200
    assert here.post("/account", data=changed).status_code == 200
    assert here.get("/account").status_code == 200
    assert there.get("/account").status_code == 401
    assert site.client().post(link).status_code == 410
    assert bob.get("/account").status_code == 200
    assert site.client().post("/signin", data={"name": "ann", "password": PASSWORD}).status_code == 401
    assert site.client().post("/signin", data={"name": "ann", **changed}).status_code == 303


def test_invitations_use_the_apps_address_and_not_what_a_request_calls_it(site: Any) -> None:
    site.config = replace(site.config, address="https://label.example")
    site.app = make_app(site.config)
    admin = site.signed_in("root", "admin")
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    page = admin.post("/people/invite", data={"role": "labeler"}, headers=headers)
    assert page.status_code == 200 and "https://label.example/join/" in page.text
    assert "evil.example" not in page.text


def test_signing_out_leaves_none_of_this_persons_drafts_in_the_browser(site: Any, visit: Any) -> None:
    site.add({"prompt": "p", "kind": "demonstrate"})
    ann = site.person("ann")
    page = visit(site, ann)
    page.goto("/work")
    page.evaluate("localStorage.setItem('align draft 999 1', 'of somebody else')")
    page.locator("#text").fill("half an answer")
    page.wait_for_function(f"Object.keys(localStorage).some((k) => k.startsWith('align draft {ann.id} '))")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/signin")
    assert page.evaluate("Object.keys(localStorage)") == ["align draft 999 1"]
    page.goto(site.link(ann))
    page.get_by_role("button", name="Sign in").click()
    page.goto("/work")
    assert page.locator("#text").input_value() == "half an answer", "the server has what was typed last"
