"""Opening the database: SQLite or PostgreSQL by the same models; migrations run by themselves."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from align.errors import UserError
from labeling.store.models import Setting

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 7301418  # any number that all our processes agree on
_BUSY_SECONDS = 30
SYNCHRONOUS = "FULL"  # an acknowledged label survives a power cut


class Store:
    """A database with its tables. `write()` is a transaction that will write; `read()` one that won't."""

    def __init__(self, address: str) -> None:
        """`address`: a file's path, or a URL (postgresql://…). Raises UserError where it can't be opened."""
        self.engine = _engine(address)
        try:
            _migrate(self.engine)
        except DBAPIError as error:
            reason = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
            raise UserError(f"labeling.database: {_shown(self.engine)} cannot be opened: {reason}") from error
        # Threads queue here rather than at SQLite's lock, at which they would sleep and look again.
        self._turn = threading.Lock() if self.is_sqlite else nullcontext()
        self._session = sessionmaker(self.engine, expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file, not a server."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Commits at the end; SQLite takes its write lock at the start, so that nothing read grows old."""
        with self._turn, self._session() as session:
            if self.is_sqlite:
                session.connection(execution_options={"begin": "IMMEDIATE"})
            yield session
            session.commit()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Commits nothing."""
        with self._session() as session:
            yield session

    def secret(self) -> str:
        """The key that signs cookies and draws orders; made at the first start."""
        with self.write() as session:
            found = session.get(Setting, "secret")
            if found is None:
                found = Setting(key="secret", value=secrets.token_hex(32))
                session.add(found)
            return found.value

    def overwrite_freed(self) -> bool:
        """Let nothing that was deleted or changed stay readable in SQLite's files; whether that is done.

        It isn't where somebody reads all the time, an export say: then the log keeps it until all have
        stopped. Nobody writes meanwhile. PostgreSQL has VACUUM FULL for its administrators.
        """
        if not self.is_sqlite:
            return True
        connection = self.engine.raw_connection()
        try:
            with self._turn:
                connection.cursor().execute("VACUUM")  # also what was freed before secure_delete was on
                (busy, _, _) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()
        return not busy

    @property
    def shown(self) -> str:
        """The address as people may see it, without a password."""
        return _shown(self.engine)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _engine(address: str) -> Engine:
    if "://" not in address:
        path = Path(address).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"labeling.database: {path.parent} cannot be made: {error.strerror}") from error
        address = f"sqlite:///{path}"
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise UserError(f"labeling.database: {address!r} is neither a path nor a database's URL") from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UserError(
            f"labeling.database: {url.get_backend_name()} is no database that align knows: "
            "name a file, or postgresql://user@host/name"
        )
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_size=10, max_overflow=20, pool_pre_ping=True)
    if url.database and url.database != ":memory:":
        with suppress(OSError):  # it is there already, or what is wrong is told when it is opened
            os.close(os.open(url.database, os.O_CREAT | os.O_EXCL, 0o600))  # passwords' hashes are in it
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _sqlite_settings)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_settings(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing: _sqlite_begin does
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten
    connection.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")


def _migrate(engine: Engine) -> None:
    """Bring the tables to this version; processes that start together wait for each other."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    steps = ScriptDirectory.from_config(config)
    newest = steps.get_current_head()
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
        if found == newest:
            return
    if found is not None and found not in {step.revision for step in steps.walk_revisions()}:
        raise UserError(
            f"labeling.database: {_shown(engine)} was made by a newer align (its tables are of version "
            f"{found}, this one knows up to {newest}): update align. Nothing was changed."
        )
    options = {"begin": "IMMEDIATE"} if engine.dialect.name == "sqlite" else {}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _shown(engine: Engine) -> str:
    return engine.url.database or "" if engine.dialect.name == "sqlite" else engine.url.render_as_string()
