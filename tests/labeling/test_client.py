"""The Python client against a real server: paging, repeated adds, changes as they come."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
httpx2 = pytest.importorskip("httpx2")

from labeling import client as module  # noqa: E402
from labeling.client import Client, ClientError, Refused, Unreachable  # noqa: E402
from labeling.store.people import new_token  # noqa: E402
from labeling.web import news  # noqa: E402

PAIR = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}


def token_of(site: Any) -> str:
    bot = site.person("bot", "machine")
    with site.config.store.write() as session:
        return new_token(session, "api", person=bot)


@pytest.fixture
def reached(
    site: Any, served: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, Client]]:
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr(module, "_PAGE", 2)
    monkeypatch.setattr(news, "EVERY", 0.05)
    with Client(served(site), token_of(site)) as client:
        yield site, client


def test_tasks_go_in_once_and_all_comes_back_in_pages(reached: tuple[Any, Client]) -> None:
    site, client = reached
    rows = [{"prompt": f"p{i}", "responses": ["x\u2028 one line", "y"], "meta": {"n": i}} for i in range(5)]
    assert client.add_tasks(iter(rows)) == {"ids": [1, 2, 3, 4, 5], "known": 0}
    assert client.add_tasks([*rows, {"prompt": "p5"}]) == {"ids": [6], "known": 5}
    assert [task["prompt"] for task in client.tasks()] == [f"p{i}" for i in range(6)]
    assert [task["id"] for task in client.tasks(after=4)] == [5, 6]
    ann = site.signed_in("ann")
    for _ in range(5):
        assert site.answer(ann, PAIR).status_code == 200
    ann.post("/reopen/5", json={})
    assert [label["id"] for label in client.labels(standing=True)] == [1, 2, 3, 4, 5]
    assert site.answer(ann, PAIR).status_code == 200
    assert [label["id"] for label in client.labels()] == [1, 2, 3, 4, 5, 6]
    assert [label["id"] for label in client.labels(standing=True)] == [1, 2, 3, 4, 6]
    assert [label["kind"] for label in client.labels(after=4)] == ["rank", "rank"]
    assert list(client.records("rankings")) == site.records()
    assert list(client.records("rankings", labeler=["bob"])) == []
    assert len(list(client.records("prompts"))) == 6


def test_all_bad_is_kept_and_seen_though_it_trains_nothing(reached: tuple[Any, Client]) -> None:
    site, client = reached
    client.add_tasks([{"prompt": "p", "responses": ["x", "y"]}])
    nothing = {**PAIR, "ranks": [None, None], "all_bad": True}
    assert site.answer(site.signed_in("ann"), nothing).status_code == 200
    (label,) = client.labels(standing=True)
    assert label["content"]["all_bad"] is True and label["content"]["ranks"] == [None, None]
    assert list(client.records("rankings")) == []


def test_errors_say_what_is_wrong(reached: tuple[Any, Client]) -> None:
    _, client = reached
    with pytest.raises(Refused, match="prompt") as refused:
        client.add_tasks([{"prompt": ""}])
    assert refused.value.status == 422
    stranger = Client(str(client._http.base_url).removesuffix("/api/v1/"), "not a token")
    for ask in (lambda: next(stranger.changes()), lambda: list(stranger.records("prompts"))):
        with pytest.raises(Refused, match="token is not known") as refused:
            ask()
        assert refused.value.status == 401
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9 does not answer"):
        Client("http://127.0.0.1:9", "t").add_tasks([{"prompt": "p"}])
    with pytest.raises(ClientError, match="starts with http"):
        Client("127.0.0.1:8700", "t")


def test_changes_come_as_they_are_made_and_over_broken_connections(reached: tuple[Any, Client]) -> None:
    site, client = reached
    client.add_tasks({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(4))
    ann = site.signed_in("ann")
    assert site.answer(ann, PAIR).status_code == 200
    tries = []

    class Shaky(httpx2.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            tries.append(request.url)
            if len(tries) % 2:
                raise httpx2.ConnectError("no route")
            return super().handle_request(request)

    address = str(client._http.base_url).removesuffix("/api/v1/")
    token = client._http.headers["authorization"].split()[1]
    seen: list[tuple[int, float]] = []
    enough = threading.Event()

    def follow() -> None:
        with Client(address, token, transport=Shaky()) as follower:
            for label in islice(follower.changes(wait=5), 4):
                seen.append((label["id"], time.monotonic()))
        enough.set()

    thread = threading.Thread(target=follow)
    thread.start()
    given = []
    for _ in range(3):
        time.sleep(0.3)
        assert site.answer(ann, PAIR).status_code == 200
        given.append(time.monotonic())
    assert enough.wait(30)
    thread.join()
    assert [number for number, _ in seen] == [1, 2, 3, 4]
    assert all(came - made < 3 for made, (_, came) in zip(given, seen[1:], strict=True)), "not after the wait"
    assert len(tries) > 5


def test_a_hundred_who_wait_are_in_nobodys_way(reached: tuple[Any, Client]) -> None:
    site, client = reached
    client.add_tasks([{"prompt": "p", "responses": ["x", "y"]}])
    address = str(client._http.base_url)
    task = site.taken(ann := site.signed_in("ann"))
    worker = httpx2.Client(base_url=address.removesuffix("/api/v1/"), cookies=dict(ann.cookies), timeout=60)
    worker.headers["X-CSRF-Token"] = ann.headers["X-CSRF-Token"]

    async def wait() -> tuple[list[float], list[Any]]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(headers=client._http.headers, timeout=120, limits=limits) as many:
            ask = {"after": 0, "wait": 45}
            waiting = [asyncio.create_task(many.get(f"{address}labels", params=ask)) for _ in range(100)]
            await asyncio.sleep(2)
            assert not any(one.done() for one in waiting)
            assert site.config.store.engine.pool.checkedout() <= 1, "who waits holds no connection"
            took = []
            for _ in range(5):
                begun = time.monotonic()
                reply = await asyncio.to_thread(worker.post, f"/work/{task['number']}/draft", json={})
                took.append(time.monotonic() - begun)
                assert reply.status_code == 200
            assert site.answer(ann, PAIR, task=task).status_code == 200
            return took, [(await one).json() for one in waiting]

    with ThreadPoolExecutor(1) as elsewhere:  # a browser's test before may have left its loop in this thread
        took, answers = elsewhere.submit(asyncio.run, wait()).result()
    assert max(took) < 10, "a thread for each who waits would leave none for half a minute"
    assert all([label["id"] for label in answer["labels"]] == [1] for answer in answers)
    worker.close()


def test_a_server_that_stops_keeps_nobody_waiting(reached: tuple[Any, Client]) -> None:
    site, client = reached
    begun = time.monotonic()
    threading.Timer(0.5, site.app.state.news.close).start()
    reply = client._once("GET", "labels", params={"wait": 50})
    assert reply == {"labels": [], "next": 0, "more": False}
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("typed", "described"),
    [
        (module.Task, "Task"),
        (module.Added, "Added"),
        (module.Label, "LabelOut"),
        (module.SuggestionUse, "SuggestionUse"),
    ],
)
def test_what_the_client_gives_is_what_the_api_describes(site: Any, typed: Any, described: str) -> None:
    described_as = site.app.openapi()["components"]["schemas"][described]
    assert sorted(typed.__annotations__) == sorted(described_as["properties"])
    assert typed.__required_keys__ == set(described_as["required"])
