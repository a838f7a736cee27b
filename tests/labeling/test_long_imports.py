"""An import is long, and nobody waits for it; it is all checked first, and can be stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import func, select  # noqa: E402
from sqlalchemy.exc import OperationalError  # noqa: E402

from align.errors import UserError  # noqa: E402
from labeling.store import imports  # noqa: E402
from labeling.store.imports import import_file  # noqa: E402
from labeling.store.models import Item, Person  # noqa: E402

HTML = {"Accept": "text/html"}
ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, count: int, **more: Any) -> Path:
    path = folder / "many.jsonl"
    rows = ({"prompt": f"question {i}", "responses": ["yes", "no", "maybe"], **more} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tasks_in(site: Any) -> int:
    with site.config.store.read() as session:
        return session.scalar(select(func.count(Item.id))) or 0


def test_a_labeler_works_on_while_another_process_imports(
    make_site: Callable[..., Any], database: str, tmp_path: Path
) -> None:
    site = make_site(database)
    site.add({"prompt": "first", "kind": "demonstrate", "priority": 5})
    ann = site.signed_in("ann")
    task = site.taken(ann)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"base: none\nrun: {{name: demo}}\nlabeling: {{database: {json.dumps(database)}}}\n")
    command = [sys.executable, "-m", "align", "label", "import", str(recipe), str(written(tmp_path, 4000))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    importing = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    longest, seen = 0.0, set()
    while importing.poll() is None:
        begun = time.monotonic()
        assert ann.post(f"/work/{task['number']}/draft", json={"text": "x"}).status_code == 200
        longest = max(longest, time.monotonic() - begun)
        seen.add(tasks_in(site))
        time.sleep(0.02)
    out, error = importing.communicate()
    assert importing.returncode == 0 and "4,000 tasks added" in out, out + error
    assert "of 4,000 rows" in error, "progress is told"
    assert len(seen) >= 5, "it comes in parts"
    assert longest < 2.0, "seconds"
    assert tasks_in(site) == 4001


def test_a_bad_row_at_the_end_adds_nothing(
    make_site: Callable[..., Any], database: str, tmp_path: Path
) -> None:
    site = make_site(database)
    path = written(tmp_path, 450)
    good = path.read_text()
    ranked = {"prompt": "p", "responses": ["x", "y"], "ranks": [1, 2], "labeler": "a\tb\x07"}
    for bad, labels, said in (
        ({"prompt": "q", "responses": [""]}, False, "451: `responses[0]` is empty"),
        ({"prompt": "q", "responses": [{"text": "x", "author": "zoe"}]}, False, "nobody is called"),
        ({**ranked, "labeler": "x" * 81}, True, "A name needs 1 to 80 characters"),
    ):
        path.write_text((json.dumps({**ranked, "labeler": "ann"}) + "\n") * labels)
        with path.open("a") as file:
            file.write("" if labels else good)
            file.write(json.dumps(bad) + "\n")
        with pytest.raises(UserError) as error:
            import_file(site.config.store, path, 1, labels=labels)
        assert said in str(error.value), error.value
        assert tasks_in(site) == 0
        with site.config.store.read() as session:
            assert session.scalar(select(func.count(Person.id))) == 0


def test_rankings_come_with_their_tasks_in_parts_and_once(
    make_site: Callable[..., Any], database: str, tmp_path: Path
) -> None:
    site = make_site(database)
    path = tmp_path / "ranked.jsonl"
    rows = [
        {"prompt": f"p{i // 2}", "responses": ["x", "y"], "ranks": [1 + i % 2, 2 - i % 2], "labeler": "ann"}
        for i in range(900)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = import_file(site.config.store, path, 1, labels=True)
    assert (first.tasks, first.rankings, first.kept) == (450, 900, 900)
    assert {tuple(record["ranks"]) for record in site.records()} == {(2, 1)}, "the later one stands"
    again = import_file(site.config.store, path, 1, labels=True)
    assert (again.tasks, again.known, again.kept) == (0, 450, 0)
    assert len(site.records()) == 450


def test_what_was_stopped_is_taken_up_by_the_same_file(site: Any, tmp_path: Path) -> None:
    path = written(tmp_path, 1000)

    def stop(done: int, total: int) -> None:
        if done >= 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_file(site.config.store, path, 1, progress=stop)
    assert tasks_in(site) == 400
    added = import_file(site.config.store, path, 1)
    assert (added.tasks, added.known) == (600, 400) and tasks_in(site) == 1000


def test_a_long_upload_goes_on_beside_the_requests_and_its_page_tells_how_far(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labeling.web.tasks._SHORT", 0.1)
    monkeypatch.setattr(imports, "_PAUSE", 0.5)
    admin = site.signed_in("root", "admin")
    data = written(tmp_path, 1000).read_bytes()
    reply = admin.post("/tasks", files={"file": ("<b>.jsonl", data)}, headers=HTML)
    assert (reply.status_code, reply.headers["location"]) == (303, "/tasks")
    deadline, told = time.monotonic() + 20, set()
    while "Adding the tasks of" in (page := admin.get("/tasks", headers=HTML).text):
        assert "&lt;b&gt;.jsonl" in page and 'http-equiv="refresh"' in page
        told.update(part.split(" …")[0] for part in page.split("jsonl: ")[1:])
        if len(told) < 2:  # it has parts to go, so it is not over when the second one comes
            second = admin.post("/tasks", files={"file": ("s.jsonl", b'{"prompt": "p"}')}, headers=HTML)
            assert second.status_code == 409 and "Wait until it is done" in second.text
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "400 of 1,000" in told and "1,000 tasks added." in page and "refresh" not in page
    short = admin.post("/tasks", files={"file": ("s.jsonl", b'{"prompt": ""}')}, headers=HTML)
    assert short.status_code in (303, 422)
    deadline = time.monotonic() + 20
    while "is empty" not in admin.get("/tasks", headers=HTML).text:
        assert time.monotonic() < deadline
    assert tasks_in(site) == 1000


def test_an_app_that_ends_stops_an_import_between_two_parts(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "_PAUSE", 0.5)
    uploads = site.app.state.uploads
    with written(tmp_path, 2000).open("rb") as file:
        job = uploads.begin(file, "many.jsonl", 1, site.person("root", "admin"))
    time.sleep(0.8)
    uploads.close()
    assert job.ended.is_set() and "stopped" in (job.error or "")
    assert 0 < tasks_in(site) < 2000


def test_a_database_that_stays_busy_is_told_as_that(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = site.signed_in("ann")
    locked = OperationalError("BEGIN IMMEDIATE", {}, Exception("database is locked"))

    def busy(*_: Any) -> None:
        raise locked

    monkeypatch.setattr("labeling.store.queue.take", busy)
    reply = ann.get("/work", headers=HTML)
    assert reply.status_code == 503 and "The database is busy" in reply.text


def test_threads_of_the_app_take_turns_with_an_import(site: Any, tmp_path: Path) -> None:
    site.add({"prompt": "first", "kind": "demonstrate", "priority": 5})
    ann = site.signed_in("ann")
    task = site.taken(ann)
    path = written(tmp_path, 2000)
    importing = threading.Thread(target=import_file, args=(site.config.store, path, 1))
    started = time.monotonic()
    importing.start()
    longest = 0.0
    while importing.is_alive():
        begun = time.monotonic()
        assert ann.post(f"/work/{task['number']}/draft", json={"text": "x"}).status_code == 200
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.02)
    # Who waits for the whole import waits as long as it takes, on a slow machine too.
    assert longest < (time.monotonic() - started) / 2 and tasks_in(site) == 2001
