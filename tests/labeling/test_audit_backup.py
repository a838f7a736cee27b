"""The log of who did what, files for spreadsheets, and copies of the database while people work."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from conftest import align, make_recipe  # noqa: E402

from align.errors import UserError  # noqa: E402
from labeling.store import sheets  # noqa: E402
from labeling.store.backup import back_up  # noqa: E402

HTML = {"Accept": "text/html"}
PAIR = {"ranks": [1, 2], "quality": [None, None], "flags": [[], []]}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "  ="])
def test_no_cell_is_a_formula(start: str) -> None:
    row = {"prompt": f"{start}1+1", "response": "plain = text"}
    text = "".join(sheets.lines(sheets.COLUMNS["demonstrations"], [row]))
    assert text.startswith("\ufeffprompt,response")
    heading, cells = csv.reader(io.StringIO(text, newline=""))
    assert cells == [f"'{start}1+1", "plain = text", "", ""]  # neither parts nor checks


def test_records_come_as_a_table_with_a_column_for_each_response(make_site: Callable[..., Any]) -> None:
    site = make_site(gold_every=0)
    site.add({"prompt": "=cmd|' /C calc'!A0", "responses": ['first, "quoted"', "-second"]})
    ann, eve = site.signed_in("ann"), site.signed_in("eve", "admin")
    task = site.taken(ann)
    ranks = [1 if index == 0 else 2 for index in site.order(task)]
    assert site.answer(ann, {**PAIR, "ranks": ranks}, task=task).status_code == 200
    reply = eve.get("/api/v1/records/rankings.csv")
    assert reply.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(reply.text.removeprefix("\ufeff"), newline=""))
    assert row["prompt"] == "'=cmd|' /C calc'!A0" and row["response_1"] == 'first, "quoted"'
    assert (row["response_2"], row["rank_1"], row["rank_2"], row["labeler"]) == ("'-second", "1", "2", "ann")
    assert ann.get("/api/v1/records/rankings.csv").status_code == 403
    assert eve.get("/api/v1/records/rankings.xls").status_code == 404


def test_the_log_says_who_did_what_and_only_admins_read_it(
    make_site: Callable[..., Any], database: str
) -> None:
    site = make_site(database, gold_every=0)
    eve = site.signed_in("eve", "admin")
    upload = {"file": ("t.jsonl", json.dumps({"prompt": "p", "responses": ["x", "y"]}).encode())}
    assert eve.post("/tasks", files=upload).status_code == 200
    ann = site.signed_in("ann")
    assert site.answer(ann, PAIR).status_code == 200
    assert eve.post("/labels/1/verdict", data={"said": "accepted", "remark": "=good"}).status_code == 303
    assert eve.post(f"/people/{2}/close", data={}).status_code == 303
    page = eve.get("/audit", headers=HTML).text
    assert page.index("closed an account") < page.index("accepted an answer") < page.index("added a file")
    assert "closed an account" not in eve.get("/audit?about=label", headers=HTML).text
    rows = [json.loads(line) for line in eve.get("/audit.jsonl").text.splitlines()]
    assert [(row["who"], row["did"]) for row in rows] == [
        ("eve", "added a file"), ("eve", "accepted an answer"), ("eve", "closed an account")
    ]  # fmt: skip
    table = list(csv.DictReader(io.StringIO(eve.get("/audit.csv").text.removeprefix("\ufeff"), newline="")))
    assert [row["did"] for row in table] == [row["did"] for row in rows]
    for role in ("labeler", "reviewer"):
        client = site.signed_in(f"a {role}", role)
        for path in ("/audit", "/audit.csv", "/audit.jsonl"):
            assert client.get(path).status_code == 403


def test_a_backup_is_whole_while_others_write(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = make_site()
    site.add(*({"prompt": f"p{i}", "responses": ["x", "y"]} for i in range(200)))
    stop = threading.Event()

    def write() -> None:
        number = 200
        while not stop.is_set():
            site.add({"prompt": f"p{number}", "responses": ["x", "y"]})
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        source = str(tmp_path / "labeling.db")
        for i in range(3):
            assert back_up(source, tmp_path / f"copy {i}.db") > 0
    finally:
        stop.set()
        writer.join(60)
    for i in range(3):
        with sqlite3.connect(tmp_path / f"copy {i}.db") as copy:
            items, responses = (
                copy.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("item", "response")
            )
            assert items >= 200 and responses == 2 * items
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert (tmp_path / "copy 0.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="is there already"):
        back_up(source, tmp_path / "copy 0.db")
    with pytest.raises(UserError, match="backup failed"):
        back_up(str(tmp_path / "nothing.db"), tmp_path / "new.db")
    assert sorted(file.name for file in tmp_path.glob(".*")) == [] and not (tmp_path / "new.db").exists()
    opened = make_site(str(tmp_path / "copy 1.db"))
    assert opened.config.secret == site.config.secret, "a copy serves as the original does"


def test_postgresql_is_told_its_own_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pg_dump --format=custom --file=\S+ postgresql://me@host/labels"):
        back_up("postgresql://me:secret@host/labels", tmp_path / "x.dump")
    try:
        back_up("postgresql://me:secret@host/labels", tmp_path / "x.dump")
    except UserError as error:
        assert "secret" not in str(error)


def test_backup_and_csv_on_the_command_line(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = make_site(gold_every=0)
    site.add({"prompt": "p"})
    assert site.answer(site.signed_in("ann"), {"text": "@written"}).status_code == 200
    recipe = make_recipe(
        tmp_path / "r", tmp_path / "base", labeling={"database": str(tmp_path / "labeling.db")}
    )
    done = align("label", "backup", str(recipe), str(tmp_path / "copy.db"))
    assert done.returncode == 0 and "copy of the labeling database" in done.stdout, done.stderr
    again = align("label", "backup", str(recipe), str(tmp_path / "copy.db"))
    assert again.returncode == 2 and "Traceback" not in again.stderr
    made = align("label", "export", str(recipe), "demonstrations", "--to", str(tmp_path / "d.csv"))
    assert made.returncode == 0
    assert (tmp_path / "d.csv").read_text(encoding="utf-8-sig").splitlines() == [
        "prompt,response,parts,checks",
        "p,'@written,,",
    ]
