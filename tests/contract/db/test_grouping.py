"""Write transactions that wait together share a commit, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longhaul_core.db import Database, EventRow, events
from longhaul_core.db.write_ahead import WRITES_BETWEEN
from longhaul_core.errors import FailedPrecondition
from sqlalchemy import event as sql_event
from sqlalchemy import text
from sqlalchemy.orm import Session

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_SECONDS = 60


def append(session: Session, number: int) -> EventRow:
    return events.append(session, "run", "p", "r", type="T", message="x", data={"n": number}, now=NOW)


def numbers(db: Database) -> list[int]:
    return [row.data["n"] for row in db.read_sync(lambda session: events.list_events(session, "run", "p", "r"))]


async def together(db: Database, functions: list[Callable[[Session], Any]]) -> list[Any]:
    """Runs functions that have all waited while another transaction was under way."""
    hold, held = threading.Event(), threading.Event()

    def first(session: Session) -> None:
        held.set()
        assert hold.wait(DEADLINE_SECONDS)

    holding = asyncio.create_task(db.run(first))
    await asyncio.to_thread(held.wait, DEADLINE_SECONDS)
    waiting = [asyncio.create_task(db.run(function)) for function in functions]
    await asyncio.sleep(0)
    hold.set()
    await holding
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_writes_that_wait_together_commit_together(db: Database) -> None:
    if not db.is_sqlite:
        return
    commits: list[object] = []
    sql_event.listen(db._writing, "commit", lambda connection: commits.append(connection))
    rows = await together(db, [lambda session, n=n: append(session, n) for n in range(20)])
    assert len(commits) == 1, "the one that held the others up wrote nothing"
    assert [row.data["n"] for row in rows] == numbers(db) == list(range(20))
    assert [row.revision for row in rows] == sorted(row.revision for row in rows)


async def test_write_that_refuses_undoes_only_itself(db: Database) -> None:
    def refuse(session: Session) -> None:
        append(session, 99)
        raise FailedPrecondition("no", reason="NO")

    rows = await together(db, [lambda s: append(s, 1), refuse, lambda s: append(s, 2), refuse])
    assert isinstance(rows[1], FailedPrecondition)
    assert isinstance(rows[3], FailedPrecondition)
    assert sorted(numbers(db)) == [1, 2]
    newest = max(rows[0].revision, rows[2].revision)
    waiting = asyncio.create_task(db.feed.wait_beyond(newest - 1))
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    again = await db.run(lambda session: append(session, 3))
    assert again.revision == newest + 1, "revisions that a refusal took are given back"


async def test_write_that_the_database_fails_leaves_the_others_alone(db: Database) -> None:
    def broken(session: Session) -> None:
        append(session, 99)
        session.execute(text("INSERT INTO nowhere VALUES (1)"))

    rows = await together(db, [lambda s: append(s, 1), broken, lambda s: append(s, 2)])
    assert isinstance(rows[1], Exception)
    assert sorted(numbers(db)) == [1, 2]


async def test_write_given_up_while_it_waits_is_not_made(db: Database) -> None:
    hold, held = threading.Event(), threading.Event()

    def first(session: Session) -> None:
        held.set()
        assert hold.wait(DEADLINE_SECONDS)

    if not db.is_sqlite:
        return  # where several writers run, nothing waits
    holding = asyncio.create_task(db.run(first))
    await asyncio.to_thread(held.wait, DEADLINE_SECONDS)
    given_up = asyncio.create_task(db.run(lambda session: append(session, 1)))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    hold.set()
    await holding
    await db.run(lambda session: append(session, 2))
    assert numbers(db) == [2]


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
