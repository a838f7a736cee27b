"""How long a reviewer's pages take beside many answers that nobody has decided, on both databases.

    python benchmarks/labeling_reviews.py [--answers 10000] [--database sqlite|postgresql|both]

Twenty people give `--answers` answers to tasks of four responses, two people a task; every tenth has a flag.
Then the app is asked for the pages that a reviewer opens, five times each, without a network between: the
median and the longest. PostgreSQL is Debian's, started for this run, and has had no ANALYZE but its own.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RESPONSES, PEOPLE, EACH = 4, 20, 2
PAGES = {
    "review, first page": "/review",
    "review, open": "/review?which=open",
    "review, apart": "/review?which=apart",
    "review, decided": "/review?which=decided",
    "review, of a kind": "/review?which=open&kind=rank",
    "review, last page": "/review?which=open&page=999999",
    "a task's answers": "/review/{item}/answers",
    "decide a task": "/review/{item}",
    "a person's answers": "/people/{person}/labels",
    "… undecided": "/people/{person}/labels?state=undecided",
    "… undecided, last page": "/people/{person}/labels?state=undecided&page=999999",
    "… accepted": "/people/{person}/labels?state=accepted",
    "… replaced": "/people/{person}/labels?state=replaced",
    "one answer": "/labels/{label}",
    "people": "/people",
    "tasks, first page": "/tasks",
    "tasks, done": "/tasks?state=done",
    "tasks, last page": "/tasks?page=999999",
    "time": "/people/time",
    "log": "/audit",
    "figures": "/figures",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    arguments = parser.parse_args()
    if arguments.answers < 3000:
        parser.error("--answers: at least 3000, so that everybody has five pages of 20 left to accept")
    for kind in ["sqlite", "postgresql"] if arguments.database == "both" else [arguments.database]:
        with database(kind) as address:
            measured(kind, address, arguments.answers)


@contextmanager
def database(kind: str) -> Iterator[str]:
    """The address of an empty database."""
    with ExitStack() as stack:
        if kind == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="reviews-"))
            yield str(Path(folder) / "labeling.db")
            return
        import psycopg
        from labeling_app import running_postgres

        server = stack.enter_context(running_postgres(fsync=True))
        with psycopg.connect(server.format(name="postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE reviews")
        yield server.format(name="reviews")


def measured(kind: str, address: str, answers: int) -> None:
    """Fill the database, ask for each page and decide some answers; print what it took."""
    from starlette.testclient import TestClient

    from align.recipe.labeling import Labeling
    from labeling.store.engine import Store
    from labeling.store.people import add_person, new_token
    from labeling.web.app import make_app
    from labeling.web.config import Config

    store = Store(address)
    try:
        begun = time.monotonic()
        person = filled(store, answers)
        print(f"{kind}: {answers} answers written in {time.monotonic() - begun:.0f} s", flush=True)
        config = Config(store, Labeling(overlap=EACH, gold_every=0), store.secret(), "reviews")
        with store.write() as session:
            eve = add_person(session, "eve", "admin")
            link = new_token(session, "signin", person=eve, lasts=timedelta(hours=1))
        with TestClient(make_app(config), base_url="http://localhost", follow_redirects=False) as client:
            assert client.post(f"/signin/{link}").status_code == 303
            client.headers["X-CSRF-Token"] = client.get("/session").json()["csrf"]
            client.headers["Accept"] = "text/html"
            names = {"item": answers // EACH // 2, "person": person, "label": answers // 2}
            for what, path in PAGES.items():
                where = path.format(**names)
                told(what, [timed(partial(client.get, where), 200) for _ in range(5)])
            told("accept an answer", [verdict(client, label, "accepted") for label in range(1, 6)])
            told("return an answer", [verdict(client, label, "returned") for label in range(6, 11)])
            told("reject an answer", [verdict(client, label, "rejected") for label in range(11, 16)])
            told("accept a page of 20", [all_of_a_page(client, person) for _ in range(5)])
    finally:
        store.close()


def filled(store: Any, answers: int) -> int:
    """Tasks, and what people answered; one of these people."""
    from labeling.store.items import add_items
    from labeling.store.models import Label, Slot
    from labeling.store.people import add_person
    from labeling.store.summary import summarise

    drawn = random.Random(0)
    with store.write() as session:
        people = [add_person(session, f"person {i}", "labeler").id for i in range(PEOPLE)]
    texts = ["word " * 60 + str(i) for i in range(RESPONSES)]
    for start in range(0, answers // EACH, 500):
        count = range(start, min(start + 500, answers // EACH))
        with store.write() as session:
            rows = [{"prompt": f"Task {i}?", "responses": [f"{t} of {i}" for t in texts]} for i in count]
            ids = add_items(session, rows, EACH).ids
            for item in ids:
                session.query(Slot).filter(Slot.item_id == item).delete()
                for number, person in enumerate(drawn.sample(people, EACH)):
                    session.add(Slot(item_id=item, number=number, state="done", person_id=person))
                    session.add(Label(**answer(drawn, item, person)))
            summarise(session, ids)
    return people[0]


def answer(drawn: random.Random, item: int, person: int) -> dict[str, Any]:
    flags: list[list[str]] = [[] for _ in range(RESPONSES)]
    if drawn.random() < 0.1:
        flags[0] = ["hallucination"]
    content = {"ranks": [drawn.randint(1, RESPONSES) for _ in range(RESPONSES)], "flags": flags}
    content |= {"quality": [4] * RESPONSES, "all_bad": False, "edit": None, "note": ""}
    row = {"item_id": item, "person_id": person, "kind": "rank", "content": content, "seconds": 30.0}
    return row | {"shown_order": list(range(RESPONSES)), "submission": f"{item} {person}"}


def timed(ask: Callable[[], Any], status: int) -> float:
    begun = time.perf_counter()
    reply = ask()
    took = time.perf_counter() - begun
    assert reply.status_code == status, f"{reply.request.url}: {reply.status_code} {reply.text[:200]}"
    return took


def verdict(client: Any, label: int, said: str) -> float:
    given = {"said": said, "remark": "" if said == "accepted" else "why"}
    return timed(lambda: client.post(f"/labels/{label}/verdict", data=given), 303)


def all_of_a_page(client: Any, person: int) -> float:
    """Accept all of a person's page of undecided answers at once, as its button does."""
    import re

    page = client.get(f"/people/{person}/labels?state=undecided").text
    labels = re.findall(r'name="label" value="(\d+)"', page)
    assert len(labels) == 20
    given = {"label": labels, "back": f"/people/{person}/labels?kind=&state=undecided"}
    return timed(lambda: client.post(f"/people/{person}/labels/accept", data=given), 303)


def told(what: str, seconds: list[float]) -> None:
    median, longest = 1000 * statistics.median(seconds), 1000 * max(seconds)
    print(f"  {what:24} {median:6.0f} ms, longest {longest:6.0f} ms", flush=True)


if __name__ == "__main__":
    main()
