"""Moves SQLite's write-ahead log into the database file beside the writers instead of within one of their commits.

Left to itself SQLite does it in the commit that passes 1,000 pages, which then takes many times as long as others.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

WRITES_BETWEEN = 256
"""Transactions after which the log is moved."""

PAGES_AT_MOST = 16_000
"""Pages of the log at which a commit moves it after all, should nobody else have (64 MiB)."""


class WriteAheadLog:
    """Counts write transactions and has the log moved in time."""

    def __init__(self, engine: Engine, submit: Callable[[Callable[[], None]], object]) -> None:
        self._engine = engine
        self._submit = submit
        self._writes = 0
        self._moving = threading.Lock()

    def wrote(self) -> None:
        """A write transaction was committed."""
        self._writes += 1
        if self._writes < WRITES_BETWEEN or not self._moving.acquire(blocking=False):
            return
        self._writes = 0
        try:
            self._submit(self._move)
        except RuntimeError:  # the database is being closed, which moves the log anyway
            self._moving.release()

    def _move(self) -> None:
        """What can be moved without making anybody wait; the rest comes next time."""
        try:
            with contextlib.suppress(SQLAlchemyError, sqlite3.Error), self._engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA query_only=OFF")
                driver.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            self._moving.release()
