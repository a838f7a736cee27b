"""Many labelers at once on a server that is killed twice: every label that was acknowledged is there, once.

    python benchmarks/labeling.py [--labelers 50] [--seconds 120] [--kills 2] [--think 10] [--tasks 8000]
                                  [--faults 0.2] [--database sqlite|postgresql|both]

`align label` runs as a process of its own on loopback. Labelers join by invitation links and do what a
browser does: take a task, think (--think is the mean in seconds, drawn exponentially; 0 finds the most that
the server can do), save a draft, answer with a submission's id, and send it again with the same id where the
connection broke. Of the tasks, a share of --faults meets one of four faults: the answer's acknowledgement is
lost, and the answer comes again; or it is changed first, as another submission instead of that one; or the
changed one comes first and the old one late; or a second tab has the task too, saves drafts and answers, is
told, and then replaces the answer or lets it be. A third of the labelers have a clock that is ten minutes
ahead, a third one that is ten minutes behind, and the second tab has the opposite one. The page sends no
time of day, so they say theirs where one could be believed: in `Date` and in the draft; and those whose
clock is ahead say that each answer took ten minutes more, as if it was put forward meanwhile. The server
gets SIGKILL at even distances and is started again at once. At the end the database is compared with what
was acknowledged: an answer that is not there is lost, one that stands though the person changed it is stale,
and one of more seconds than the whole run has a wrong time. Exit code 1 where anything was lost, stale,
doubled, wrong or failed. PostgreSQL is Debian's, started for this run with its usual settings; it is not
killed.
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
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

OVERLAP = 2
RESPONSES = 4
FAULTS = ("acknowledgement lost", "lost, then changed", "changed, the old one late", "two tabs")
JSON = {"Accept": "*/*"}
GIVE_UP = 60.0  # seconds without any answer
CLOCKS = (0.0, 600.0, -600.0)  # seconds that the labelers' clocks are ahead, in turn
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
    parser.add_argument("--faults", type=float, default=0.2)
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
    number: int
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
    off: int = 0  # labels of those whose clock is wrong
    last: dict[tuple[int, int], str] = field(default_factory=dict)  # what stands, by task and person
    faults: Counter[str] = field(default_factory=Counter)
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
        self.labelers: list[Labeler] = []

    async def run(self) -> None:
        self.add_tasks()
        link = self.start()
        try:
            async with self.client() as admin:
                invitations = await invite(admin, link, self.arguments.labelers)
            self.labelers = [Labeler(self, path, number) for number, path in enumerate(invitations)]
            for labeler in self.labelers:
                await labeler.join()
            begun = time.monotonic()
            until = begun + self.arguments.seconds
            await asyncio.gather(self.kill(begun), *(labeler.work(until) for labeler in self.labelers))
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
        wrong = sum(labeler.ahead != 0 for labeler in self.labelers)
        print(
            f"  {wrong} labelers' clocks were ten minutes off, {seen.off} of their labels were acknowledged"
        )
        print("  faults: " + (", ".join(f"{what} {n}" for what, n in sorted(seen.faults.items())) or "none"))
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
        from labeling.web.numbers import item_of

        store = Store(self.database)
        secret = store.secret()
        with store.read() as session:
            labels = session.scalars(select(Label)).all()
            slots = session.scalars(select(Slot)).unique().all()
            overlaps = dict(session.execute(select(Item.id, Item.overlap)).all())
        store.close()
        # Pages call tasks by numbers of their own.
        last = {(item_of(secret, number), person): said for (number, person), said in self.seen.last.items()}
        lost = 0
        kept = {label.submission: label for label in labels}
        for submission, given in self.seen.labels.items():
            label = kept.get(submission)
            item = item_of(secret, given.number)
            if label is None or (label.id, label.item_id, label.person_id) != (
                given.label,
                item,
                given.person,
            ):
                lost += 1
                continue
            order = drawn_order(secret, item, given.person, RESPONSES)
            lost += [label.content["ranks"][index] for index in order] != given.ranks
        replaced = {label.replaces for label in labels}
        standing = [label for label in labels if label.id not in replaced]
        people = Counter((label.item_id, label.person_id) for label in standing)
        doubled = sum(count - 1 for count in people.values()) + len(set(kept) - set(self.seen.labels))
        stale = sum(last.get((label.item_id, label.person_id)) != label.submission for label in standing)
        held = Counter((slot.item_id, slot.person_id) for slot in slots if slot.person_id is not None)
        answers = Counter(label.item_id for label in standing)
        done = Counter(slot.item_id for slot in slots if slot.state == "done")
        places = Counter(slot.item_id for slot in slots)
        over = [
            i for i, most in overlaps.items() if max(answers[i], places[i]) > most or done[i] != answers[i]
        ]
        leased = Counter(slot.person_id for slot in slots if slot.state == "leased")
        twice = sum(n - 1 for n in held.values()) + sum(n - 1 for n in leased.values())
        return {
            "lost": lost,
            "stale": stale,
            "doubled": doubled,
            "slots held twice": twice,
            "items over overlap": len(over),
            "of a wrong time": sum((label.seconds or 0) > self.lasted for label in labels),
        }


class Labeler:
    """A browser and the person before it."""

    def __init__(self, load: Load, invitation: str, number: int) -> None:
        self.load, self.invitation, self.name = load, invitation, f"labeler {number}"
        self.ahead = CLOCKS[number % len(CLOCKS)]
        self.client = load.client()
        self.draw = random.Random(number)
        self.faults = itertools.cycle(FAULTS[number % len(FAULTS) :] + FAULTS[: number % len(FAULTS)])

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
            task = task_of(page) | {"ahead": self.ahead}
            self.client.headers["X-CSRF-Token"] = csrf_of(page)
            await asyncio.sleep(self.draw.expovariate(1 / think) if think else 0)
            await self.answer(task)
        await self.client.aclose()

    def ranks(self) -> list[int | None]:
        return [self.draw.choice([1, 2, 3, 4, None]) for _ in range(RESPONSES)]

    async def answer(self, task: dict[str, Any]) -> None:
        """Answer a task, maybe with a fault on the way."""
        fault = next(self.faults) if self.draw.random() < self.load.arguments.faults else None
        self.load.seen.faults.update([fault] if fault else [])
        first = said(task, self.ranks())
        await self.draft(task, first, task["revision"])
        if fault is None:
            return await self.sent(task, first)
        if fault == "two tabs":
            return await self.two_tabs(task, first)
        second = said(task, self.ranks(), first["submission"])
        if fault == "acknowledgement lost":
            await self.sent(task, first, heard=False)
            return await self.sent(task, first)
        if fault == "lost, then changed":
            await self.sent(task, first, heard=False)
            return await self.sent(task, second)
        await self.sent(task, second)
        await self.refused(task, first)  # it was on its way all the time

    async def two_tabs(self, task: dict[str, Any], first: dict[str, Any]) -> None:
        """The other tab has the task too, and a draft of it that the app must not take for the later one."""
        other = task_of(await self.asked("GET task", lambda: self.client.get("/work")))
        other["ahead"] = -self.ahead
        kept = {key: value for key, value in other["draft"].items() if key != "at"}
        if (other["number"], kept) != (task["number"], first["content"]):
            self.load.seen.wrong["the second tab began with another draft"] += 1
        second = said(other, self.ranks())
        await self.draft(other, second, other["revision"])
        await self.draft(task, first, other["revision"], late=True)
        await self.sent(task, first)
        standing = await self.refused(other, second)
        if self.draw.random() < 0.5:
            await self.sent(other, said(other, second["content"]["ranks"], standing))

    async def draft(
        self, task: dict[str, Any], given: dict[str, Any], revision: int, late: bool = False
    ) -> None:
        path = f"/work/{task['number']}/draft?revision={revision}"
        # 409 also where an earlier try was taken and the connection broke: the app then has this content.
        expected = (409,) if late else (200, 409)
        clock = datetime.now(UTC) + timedelta(seconds=task["ahead"])
        content = given["content"] | {"at": clock.isoformat()}
        send = partial(self.client.post, path, json=content, headers=JSON | dated(task))
        reply = await self.asked("POST draft", send, expected)
        if not late and reply.status_code == 409 and reply.json()["content"] != content:
            self.load.seen.wrong["POST draft: 409 with another draft"] += 1

    async def sent(self, task: dict[str, Any], given: dict[str, Any], heard: bool = True) -> None:
        """Send an answer until it is acknowledged; `heard`: and until somebody hears of that."""
        seen, tries = self.load.seen, itertools.count()

        def send() -> Awaitable[httpx2.Response]:
            next(tries)
            path = f"/work/{task['number']}/answer"
            return self.client.post(path, json=given, headers=JSON | dated(task))

        reply = await self.asked("POST answer", send)
        seen.again += next(tries) > 1
        if reply.status_code == 200:
            key, submission = (task["number"], task["person"]), given["submission"]
            seen.off += submission not in seen.labels and self.ahead != 0
            seen.labels[submission] = Acknowledged(reply.json()["label"], *key, given["content"]["ranks"])
            if heard:
                seen.last[key] = submission

    async def refused(self, task: dict[str, Any], given: dict[str, Any]) -> str:
        """Send an answer that must not take the place of the one that stands; which one that is."""
        path = f"/work/{task['number']}/answer"
        send = partial(self.client.post, path, json=given, headers=JSON | dated(task))
        reply = await self.asked("POST answer", send, (409,))
        return str(reply.json().get("standing", ""))

    async def asked(
        self,
        what: str,
        send: Callable[[], Awaitable[httpx2.Response]],
        expected: tuple[int, ...] = (200, 303),
    ) -> httpx2.Response:
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
            if reply.status_code not in expected:
                seen.wrong[f"{what}: {reply.status_code} {reply.text[:80]}"] += 1
            if reply.status_code < 500 or time.monotonic() > deadline:
                return reply


def said(task: dict[str, Any], ranks: list[int | None], *instead_of: str) -> dict[str, Any]:
    """An answer as the page sends it, under an id of its own."""
    content = {
        "ranks": ranks,
        "quality": [None] * RESPONSES,
        "flags": [[] for _ in ranks],
        "all_bad": sum(rank is not None for rank in ranks) < 2,
        "edit": None,
        "note": "",
    }
    given = {"content": content, "submission": secrets.token_hex(16), "instead_of": list(instead_of)}
    given |= {"guideline": task["guideline"], "skip": False, "adjudicates": False}
    return given | {"seconds": max(0.0, 1.0 + task["ahead"])}


def dated(task: dict[str, Any]) -> dict[str, str]:
    """The header of a request by the clock that the task's tab has."""
    return {"Date": formatdate(time.time() + task["ahead"], usegmt=True)}


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
