"""A copy of the database as it stands, also while people work on it."""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL, make_url

from align.errors import UserError


def back_up(address: str, to: Path) -> int:
    """Copy the database at `address` into the new file `to`; its size in bytes.

    SQLite's own backup copies one state of it, whatever is written meanwhile. Raises UserError where the
    file is there, cannot be written, or the database is PostgreSQL, which has a program of its own.
    """
    if "://" in address and not address.startswith("sqlite:"):
        given = make_url(address)
        url = URL.create("postgresql", given.username, None, given.host, given.port, given.database)
        url = url.update_query_dict(dict(given.query))
        line = f"pg_dump --format=custom --file={shlex.quote(str(to))} {shlex.quote(str(url))}"
        raise UserError(f"PostgreSQL copies its databases by its own program: `{line}` (pg_restore reads it)")
    source = make_url(address).database or "" if address.startswith("sqlite:") else address
    if to.exists():
        raise UserError(f"{to} is there already: a backup replaces nothing")
    part = to.with_name(f".{to.name}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        _copy(Path(source).expanduser(), part)
        os.link(part, to)  # fails where somebody has made it meanwhile
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{to}: the backup failed: {getattr(error, 'strerror', None) or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return to.stat().st_size


def _copy(source: Path, to: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as database,
        closing(sqlite3.connect(to)) as copy,
    ):
        os.chmod(to, 0o600)  # passwords' hashes and the key of cookies are in it
        database.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
        (said,) = copy.execute("PRAGMA quick_check").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {said}")
    with to.open("rb") as file:
        os.fsync(file.fileno())
