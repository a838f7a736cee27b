"""A database of an earlier version, with labels in it, is brought up to date and loses nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from alembic import command  # noqa: E402
from alembic.autogenerate import compare_metadata  # noqa: E402
from alembic.config import Config  # noqa: E402
from alembic.migration import MigrationContext  # noqa: E402
from sqlalchemy import text  # noqa: E402
from sqlalchemy.exc import DBAPIError  # noqa: E402

from labeling.store import engine  # noqa: E402
from labeling.store.models import Tables  # noqa: E402

NOTHING = {"quality": [None, None], "flags": [[], []], "note": "", "all_bad": False, "edit": None}
GIVEN = {
    "now": datetime.now(UTC),
    "prompt": json.dumps([{"role": "user", "content": "p"}]),
    "content": json.dumps({"ranks": [2, 1], **NOTHING}),
}
ROWS = [
    "INSERT INTO person (id, name, role, created) VALUES (1, 'ann', 'labeler', :now)",
    "INSERT INTO item (id, kind, key, prompt, plain, priority, overlap, meta, created) "
    "VALUES (1, 'rank', 'k', :prompt, true, 0, 1, '{}', :now)",
    "INSERT INTO response (id, item_id, position, text) VALUES (1, 1, 0, 'x')",
    "INSERT INTO response (id, item_id, position, text) VALUES (2, 1, 1, 'y')",
    "INSERT INTO draft (item_id, person_id, content, saved) VALUES (1, 1, '{}', :now)",
    "INSERT INTO label (id, item_id, person_id, kind, content, shown_order, adjudicates, submission, "
    "created) VALUES (1, 1, 1, 'rank', :content, '[0, 1]', false, 's', :now)",
]

DRAFTS = ([("{}", 0)], [({}, 0)])  # as SQLite and PostgreSQL hand it out


def old_database(address: str, version: str) -> None:
    """The tables of an earlier version, with one label and one draft."""
    config = Config()
    config.set_main_option("script_location", str(engine._MIGRATIONS))
    made = engine._engine(address)
    with made.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        for row in ROWS:
            used = {name: value for name, value in GIVEN.items() if f":{name}" in row}
            connection.execute(text(row), used)
    made.dispose()


@pytest.mark.parametrize("version", ["0001", "0003", "0004"])
def test_labels_of_an_earlier_version_are_kept_and_stay_unchangeable(
    make_site: Any, database: str, version: str
) -> None:
    old_database(database, version)
    site = make_site(database)
    (row,) = site.records()
    assert (row["labeler"], row["responses"], row["ranks"]) == ("ann", ["x", "y"], [2, 1])
    store = site.config.store
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Tables.metadata) == [], "the tables are those of the models"
    with store.read() as session:
        assert session.execute(text("SELECT content, revision FROM draft")).all() in DRAFTS
        assert not session.scalar(text("SELECT affirmed FROM label")), "nobody was asked"
        counted = session.execute(
            text("SELECT item_id, answers, undecided, skips, flags, apart FROM summary")
        )
        assert [tuple(row) for row in counted] == [(1, 1, 1, 0, 0, -1.0)]
        assert session.scalar(text("SELECT characters FROM item")) == len("pxy")
    for change in ("UPDATE label SET suggestion_taken = true", "DELETE FROM label"):
        with pytest.raises(DBAPIError, match="only ever added to"), store.write() as session:
            session.execute(text(change))


def test_checks_of_an_earlier_version_are_kept_and_stay_unchangeable(make_site: Any, database: str) -> None:
    old_database(database, "0012")
    row = "INSERT INTO answer_check (id, item_id, person_id, name, text_hash, said, created) "
    made = engine._engine(database)
    with made.begin() as connection:
        connection.execute(text(row + "VALUES (7, 1, 1, 'short', 'h', '{}', :now)"), {"now": GIVEN["now"]})
    made.dispose()
    store = make_site(database).config.store
    with store.read() as session:
        found = session.execute(text("SELECT id, item_id, talk, name FROM answer_check")).all()
    assert [tuple(row) for row in found] == [(7, 1, None, "short")]
    for change in ("UPDATE answer_check SET name = 'x'", "DELETE FROM answer_check"):
        with pytest.raises(DBAPIError, match="only"), store.write() as session:
            session.execute(text(change))
