"""The write-ahead log of SQLite: switched to when others write, and moved beside the writers."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from longhaul_core.db import Database, EventRow, events
from longhaul_core.db.session import Session
from longhaul_core.db.write_ahead import WRITES_BETWEEN

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_SECONDS = 60


def append(session: Session, number: int) -> EventRow:
    return events.append(session, "run", "p", "r", type="T", message="x", data={"n": number}, now=NOW)


def numbers(db: Database) -> list[int]:
    return [row.data["n"] for row in db.read_sync(lambda session: events.list_events(session, "run", "p", "r"))]


def test_log_of_writes_is_moved_beside_the_writers(db: Database) -> None:
    if not db.is_sqlite:
        return
    path = Path(str(db._url.database))
    before = path.stat().st_size
    for number in range(WRITES_BETWEEN):
        db.run_sync(lambda session, number=number: append(session, number))
    log = db._log
    assert log is not None
    assert log._moving.acquire(timeout=DEADLINE_SECONDS), "the log is still being moved"
    assert path.stat().st_size > before
    assert numbers(db) == list(range(WRITES_BETWEEN))


def test_switch_to_the_log_waits_for_whoever_writes_though_sqlite_refuses_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.sqlite3"
    refusals: list[float] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN IMMEDIATE")

        def end_their_transaction(seconds: float) -> None:
            refusals.append(seconds)
            other.rollback()

        monkeypatch.setattr(time, "sleep", end_their_transaction)
        Database.open(f"sqlite:///{path}", migrated=True).close()
        monkeypatch.undo()
    assert len(refusals) == 1
    with closing(sqlite3.connect(path)) as after:
        assert after.execute("PRAGMA journal_mode").fetchone() == ("wal",)
