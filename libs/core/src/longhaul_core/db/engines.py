"""SQLAlchemy engines for SQLite and PostgreSQL, so that the code above sees one database.

SQLite: WAL, synchronous=FULL (a commit is on the disk), BEGIN IMMEDIATE for writers (no upgrade of a read lock, which
could deadlock), `query_only` for readers. PostgreSQL: READ COMMITTED writers, which lock the rows they need; readers
see one snapshot.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from longhaul_core.db.dialects import decode_json, encode_json
from longhaul_core.db.failures import damaged, translate, unusable
from longhaul_core.db.write_ahead import PAGES_AT_MOST
from longhaul_core.errors import InvalidArgument

BUSY_TIMEOUT_MS = 10_000
"""How long SQLite waits for another process's write transaction."""

STALLED_SECONDS = 5
"""A transaction whose process does nothing for this long is rolled back by the server. Else a replica that is paused in
the middle of a write would hold its locks, the lease's among them, and no other could take over."""

POOL_SIZE = 16
"""Connections a process, above its worker threads (see `database.py`)."""

_WRITES = "longhaul_writes"


def parse_database_url(text: str) -> URL:
    """Read a database URL; `postgres://` and `postgresql://` mean the psycopg driver.

    Raises:
        InvalidArgument: The URL cannot be read, or names another database.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise _unsupported("it is not a URL") from error
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite")
    if backend in {"postgresql", "postgres"} and url.database:
        return url.set(drivername="postgresql+psycopg")
    raise _unsupported(f"it names {backend or 'no database'}")


def open_engine(url: URL) -> Engine:
    """Make the engine of a database; nothing is connected yet except SQLite's check of its file.

    Raises:
        FailedPrecondition: The SQLite file is damaged or cannot be used.
        ResourceExhausted: Its disk is full.
    """
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_pre_ping=True,
        json_serializer=encode_json,
        json_deserializer=decode_json,
        connect_args={"connect_timeout": 5, "application_name": "longhaul"},
    )
    event.listen(engine, "connect", _configure_postgres)
    return engine


def writing(engine: Engine) -> Engine:
    """Return the engine as write transactions use it."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_WRITES: True})
    return engine.execution_options(isolation_level="READ COMMITTED")


def reading(engine: Engine) -> Engine:
    """Return the engine as read transactions use it: one snapshot, no writes."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _open_sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, f"cannot make its folder: {error.strerror}") from error
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=0,
        json_serializer=encode_json,
        json_deserializer=decode_json,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    try:
        _check_sqlite(engine, path)
    except DBAPIError as error:
        engine.dispose()
        raise translate(error, url) from error
    return engine


def _configure_postgres(connection: Any, record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{STALLED_SECONDS}s'")
    connection.commit()


def _configure_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA wal_autocheckpoint={PAGES_AT_MOST}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Switch to the write-ahead log; where several do so at once, SQLite refuses all but one without waiting."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    """Begin as a reader or a writer; on the driver's own connection, since SQLAlchemy's way costs as much as a read."""
    writes = connection.get_execution_options().get(_WRITES, False)
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    except sqlite3.Error as error:
        raise DBAPIError.instance("BEGIN", None, error, sqlite3.Error, dialect=connection.dialect) from error


def _check_sqlite(engine: Engine, path: Path) -> None:
    with engine.connect() as connection:
        verdict = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
    if verdict != "ok":
        engine.dispose()
        raise damaged(path, verdict)


def _unsupported(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"database_url: {why}",
        reason="DATABASE_URL_INVALID",
        violations=[("database_url", why)],
        action="use sqlite:////folder/file.sqlite3 or postgresql://user:password@host/database",
    )
