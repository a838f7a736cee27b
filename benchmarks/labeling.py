"""Many labelers at once on a server that is killed twice: every label that was acknowledged is there, once.

    python benchmarks/labeling.py [--labelers 50] [--seconds 120] [--kills 2] [--think 10] [--tasks 8000]
                                  [--database sqlite|postgresql|both]

`align label` runs as a process of its own on loopback. Labelers join by invitation links and do what a
browser does: take a task, think (--think is the mean in seconds, drawn exponentially; 0 finds the most that
the server can do), save a draft, answer with a submission's id, and send it again with the same id where the
connection broke. The server gets SIGKILL at even distances and is started again at once. At the end the
database is compared with what was acknowledged. Exit code 1 where anything was lost, doubled or failed.
PostgreSQL is Debian's, started for this run with its usual settings; it is not killed.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import itertools
import json
import os
import random
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

OVERLAP = 2
RESPONSES = 4
GIVE_UP = 60.0  # seconds without any answer
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labelers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--think", type=float, default=10.0)
    parser.add_argument("--tasks", type=int, default=8000)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    arguments = parser.parse_args()
    kinds = ["sqlite", "postgresql"] if arguments.database == "both" else [arguments.database]
    good = True
    for kind in kinds:
        with opened(kind) as (folder, database):
            load = Load(folder, database, arguments)
            asyncio.run(load.run())
            good &= load.report(kind)
    sys.exit(0 if good else 1)


@contextmanager
def opened(kind: str) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of an empty database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-")))
        if kind == "sqlite":
            yield folder, str(folder / "labeling.db")
            return
        import psycopg
        from labeling_app import running_postgres

        server = stack.enter_context(running_postgres(fsync=True))
        with psycopg.connect(server.format(name="postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE load")
        yield folder, server.format(name="load")


@dataclass
class Acknowledged:
    """An answer that the server said it has."""

    label: int
    item: int
    person: int
    ranks: list[int | None]  # as shown


@dataclass
class Seen:
    """What the labelers saw."""

    labels: dict[str, Acknowledged] = field(default_factory=dict)  # by submission
    seconds: dict[str, list[float]] = field(default_factory=dict)  # of requests that were answered
    answered: list[tuple[float, float]] = field(default_factory=list)  # requests: begun, ended
    broken: int = 0  # connections
    again: int = 0  # answers that were sent more than once
    wrong: Counter[str] = field(default_factory=Counter)  # statuses that should not be


class Load:
    """One database, one server with its deaths, many labelers."""

    def __init__(self, folder: Path, database: str, arguments: argparse.Namespace) -> None:
        self.folder, self.database, self.arguments = folder, database, arguments
        self.recipe = folder / "recipe.yaml"
        settings = json.dumps({"database": database, "overlap": OVERLAP, "gold_every": 0})
        self.recipe.write_text(f"base: none\nrun: {{name: load, folder: {folder}}}\nlabeling: {settings}\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = folder / "log"
        self.seen = Seen()
        self.killed: list[float] = []
        self.adding = self.lasted = 0.0
        self.server: subprocess.Popen[bytes] | None = None

    async def run(self) -> None:
        self.add_tasks()
        link = self.start()
        try:
            async with self.client() as admin:
                invitations = await invite(admin, link, self.arguments.labelers)
            labelers = [Labeler(self, path, number) for number, path in enumerate(invitations)]
            for labeler in labelers:
                await labeler.join()
            begun = time.monotonic()
            until = begun + self.arguments.seconds
            await asyncio.gather(self.kill(begun), *(labeler.work(until) for labeler in labelers))
            self.lasted = time.monotonic() - begun
        finally:
            assert self.server is not None
            self.server.kill()
            self.server.wait()

    def add_tasks(self) -> None:
        tasks = self.folder / "tasks.jsonl"
        with tasks.open("w") as file:
            for number in range(self.arguments.tasks):
                responses = [f"Response {i} of task {number}. " + "word " * 60 for i in range(RESPONSES)]
                file.write(json.dumps({"prompt": f"Task {number}?", "responses": responses}) + "\n")
        begun = time.monotonic()
        command = [sys.executable, "-m", "align", "label", "import", str(self.recipe), str(tasks)]
        subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        self.adding = time.monotonic() - begun

    def start(self) -> str:
        """The server's process; the path of its sign-in link once it listens."""
        command = [sys.executable, "-m", "align", "label", str(self.recipe), "--port", str(self.port)]
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as file:
            self.server = subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=file)
        deadline = time.monotonic() + GIVE_UP
        while True:
            said = self.log.read_bytes()[offset:].decode()
            if found := re.search(r"(/signin/\S+)\n", said):
                return found[1]
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: {said}")
            time.sleep(0.02)

    async def kill(self, begun: float) -> None:
        for number in range(self.arguments.kills):
            moment = begun + self.arguments.seconds * (number + 1) / (self.arguments.kills + 1)
            await asyncio.sleep(moment - time.monotonic())
            assert self.server is not None
            self.server.send_signal(signal.SIGKILL)
            self.killed.append(time.monotonic())
            await asyncio.to_thread(self.server.wait)
            await asyncio.to_thread(self.start)

    def client(self) -> httpx2.AsyncClient:
        headers = {"Accept": "text/html"}
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=GIVE_UP)

    def report(self, kind: str) -> bool:
        """Print what was seen; whether all is as it should be."""
        seen, wanted = self.seen, self.arguments
        print(
            f"{kind}: {wanted.labelers} labelers, {self.lasted:.0f} s, thinking {wanted.think:g} s, "
            f"{wanted.tasks} tasks added in {self.adding:.1f} s"
        )
        print(f"  {len(seen.labels)} labels, {len(seen.labels) / self.lasted:.1f} labels/s")
        for what, seconds in seen.seconds.items():
            cuts = statistics.quantiles(seconds, n=100, method="inclusive")
            print(f"  {what:11} " + " ".join(f"p{p} {1000 * cuts[p - 1]:.0f} ms" for p in (50, 95, 99)))
        gaps = [
            min((ended for begun, ended in seen.answered if begun > at), default=float("inf")) - at
            for at in self.killed
        ]
        print(f"  killed {len(gaps)} times, down for {', '.join(f'{gap:.1f} s' for gap in gaps)}", end="; ")
        print(f"{seen.broken} connections broke, {seen.again} answers were sent again")
        found = self.checked()
        print("  " + ", ".join(f"{what} {count}" for what, count in found.items()))
        print("  unexpected answers: " + (", ".join(f"{s} ({n})" for s, n in seen.wrong.items()) or "none"))
        complaints = [
            line for line in self.log.read_text().splitlines() if "Error" in line or "locked" in line
        ]
        print("".join(f"  log: {line}\n" for line in complaints[:5]), end="", flush=True)
        return not any(found.values()) and not seen.wrong and not complaints

    def checked(self) -> dict[str, int]:
        """The database beside what was acknowledged."""
        from sqlalchemy import select

        from labeling.answers import drawn_order
        from labeling.store.engine import Store
        from labeling.store.models import Item, Label, Slot

        store = Store(self.database)
        secret = store.secret()
        with store.read() as session:
            labels = session.scalars(select(Label)).all()
            slots = session.scalars(select(Slot)).unique().all()
            overlaps = dict(session.execute(select(Item.id, Item.overlap)).all())
        store.close()
        lost = 0
        kept = {label.submission: label for label in labels}
        for submission, given in self.seen.labels.items():
            label = kept.get(submission)
            if label is None or (label.id, label.item_id, label.person_id) != (
                given.label,
                given.item,
                given.person,
            ):
                lost += 1
                continue
            order = drawn_order(secret, given.item, given.person, RESPONSES)
            lost += [label.content["ranks"][index] for index in order] != given.ranks
        people = Counter((label.item_id, label.person_id) for label in labels)
        doubled = sum(count - 1 for count in people.values()) + len(set(kept) - set(self.seen.labels))
        held = Counter((slot.item_id, slot.person_id) for slot in slots if slot.person_id is not None)
        answers = Counter(label.item_id for label in labels)
        done = Counter(slot.item_id for slot in slots if slot.state == "done")
        places = Counter(slot.item_id for slot in slots)
        over = [
            i for i, most in overlaps.items() if max(answers[i], places[i]) > most or done[i] != answers[i]
        ]
        leased = Counter(slot.person_id for slot in slots if slot.state == "leased")
        twice = sum(n - 1 for n in held.values()) + sum(n - 1 for n in leased.values())
        return {"lost": lost, "doubled": doubled, "slots held twice": twice, "items over overlap": len(over)}


class Labeler:
    """A browser and the person before it."""

    def __init__(self, load: Load, invitation: str, number: int) -> None:
        self.load, self.invitation, self.name = load, invitation, f"labeler {number}"
        self.client = load.client()
        self.draw = random.Random(number)

    async def join(self) -> None:
        form = {"name": self.name, "password": "a long enough password"}
        assert (await self.client.post(self.invitation, data=form)).status_code == 303

    async def work(self, until: float) -> None:
        think = self.load.arguments.think
        while time.monotonic() < until:
            page = await self.asked("GET task", lambda: self.client.get("/work"))
            if page.status_code == 303:
                self.load.seen.wrong["no task left: give more --tasks"] += 1
                break
            task = task_of(page)
            self.client.headers["X-CSRF-Token"] = csrf_of(page)
            await asyncio.sleep(self.draw.expovariate(1 / think) if think else 0)
            ranks = [self.draw.choice([1, 2, 3, 4, None]) for _ in range(RESPONSES)]
            await self.answer(task, ranks)
        await self.client.aclose()

    async def answer(self, task: dict[str, Any], ranks: list[int | None]) -> None:
        content = {
            "ranks": ranks,
            "quality": [None] * RESPONSES,
            "flags": [[] for _ in ranks],
            "all_bad": sum(rank is not None for rank in ranks) < 2,
            "edit": None,
            "note": "",
        }
        given = {"content": content, "submission": secrets.token_hex(16), "seconds": 1.0}
        given |= {"guideline": task["guideline"], "skip": False, "adjudicates": False}
        path = f"/work/{task['item']}"
        json_too = {"Accept": "*/*"}
        await self.asked(
            "POST draft", lambda: self.client.post(f"{path}/draft", json=content, headers=json_too)
        )
        tries = itertools.count()

        def send() -> Awaitable[httpx2.Response]:
            next(tries)
            return self.client.post(f"{path}/answer", json=given, headers=json_too)

        reply = await self.asked("POST answer", send)
        self.load.seen.again += next(tries) > 1
        if reply.status_code == 200:
            self.load.seen.labels[given["submission"]] = Acknowledged(
                reply.json()["label"], task["item"], task["person"], ranks
            )

    async def asked(self, what: str, send: Callable[[], Awaitable[httpx2.Response]]) -> httpx2.Response:
        """Sent until there is an answer; how long that one took is kept."""
        seen = self.load.seen
        deadline = time.monotonic() + GIVE_UP
        while True:
            begun = time.monotonic()
            try:
                reply = await send()
            except httpx2.TransportError:
                seen.broken += 1
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.25)
                continue
            ended = time.monotonic()
            seen.answered.append((begun, ended))
            seen.seconds.setdefault(what, []).append(ended - begun)
            if reply.status_code not in (200, 303):
                seen.wrong[f"{what}: {reply.status_code} {reply.text[:80]}"] += 1
            if reply.status_code < 500 or time.monotonic() > deadline:
                return reply


async def invite(admin: httpx2.AsyncClient, link: str, count: int) -> list[str]:
    """Sign in by the link that the server printed, and make invitations."""
    assert (await admin.post(link)).status_code == 303
    token = csrf_of(await admin.get("/"))
    pages = [
        await admin.post("/people/invite", data={"csrf": token, "role": "labeler"}) for _ in range(count)
    ]
    return [re.findall(r"/join/[\w-]+", page.text)[0] for page in pages]


def task_of(page: httpx2.Response) -> dict[str, Any]:
    found = re.search(r'data-task="([^"]*)"', page.text)
    assert found, page.text[:200]
    return dict(json.loads(html.unescape(found[1])))


def csrf_of(page: httpx2.Response) -> str:
    found = re.search(r'name="csrf" content="(\w+)"', page.text)
    assert found, page.text[:200]
    return found[1]


if __name__ == "__main__":
    main()
