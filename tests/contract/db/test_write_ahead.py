"""The write-ahead log of SQLite is moved beside the writers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

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
