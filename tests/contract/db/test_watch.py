from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from longhaul_core.db import Database, EventRow, ResourceRow, events, resources
from longhaul_core.db.revisions import current_revision
from longhaul_core.db.session import Session
from longhaul_core.errors import FailedPrecondition, Unavailable
from longhaul_core.rpc.watch import watch, watch_events

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SOON_SECONDS = 60.0
T = TypeVar("T")


def create(session: Session, id: str, project: str = "demo") -> ResourceRow:
    row, _ = resources.create(
        session, kind="run", project=project, id=id, spec={}, state="QUEUED", fingerprint=id, now=NOW
    )
    return row


async def take(stream: AsyncIterator[T], number: int) -> list[T]:
    async with asyncio.timeout(SOON_SECONDS):
        return [await anext(stream) for _ in range(number)]


async def test_watch_two_transactions_committing_in_reverse_order_misses_none(open_database: Any) -> None:
    """The one that starts first takes its revision last: a watcher on another replica must see both."""
    writer, watcher = open_database(), open_database()
    first_started, second_committed = threading.Event(), threading.Event()

    def starts_first(session: Session) -> int:
        current_revision(session)  # the transaction has begun
        first_started.set()
        second_committed.wait(0.2 if writer.is_sqlite else SOON_SECONDS)  # SQLite has one writer: none can overtake
        return create(session, "first").revision

    def starts_second(session: Session) -> int:
        return create(session, "second").revision

    with ThreadPoolExecutor(2) as threads:
        stream = watch(watcher, "run", "demo", after_revision=0)
        first = threads.submit(writer.run_sync, starts_first)
        first_started.wait(SOON_SECONDS)
        second = threads.submit(writer.run_sync, starts_second)
        second.add_done_callback(lambda _: second_committed.set())
        seen = await take(stream, 2)
        revisions = {"first": first.result(), "second": second.result()}
    assert {row.id: row.revision for row in seen} == revisions
    assert seen[0].revision < seen[1].revision
    if not writer.is_sqlite:
        assert [row.id for row in seen] == ["second", "first"]


async def test_watch_never_passes_a_revision_that_is_not_committed(open_database: Any) -> None:
    """While a transaction holds a revision, none above it can commit, so a watcher cannot skip it."""
    writer, watcher = open_database(), open_database()
    holds, may_commit = threading.Event(), threading.Event()

    def slow(session: Session) -> int:
        revision = create(session, "slow").revision
        holds.set()
        may_commit.wait(SOON_SECONDS)
        return revision

    with ThreadPoolExecutor(2) as threads:
        slow_one = threads.submit(writer.run_sync, slow)
        holds.wait(SOON_SECONDS)
        fast_one = threads.submit(watcher.run_sync, lambda session: create(session, "fast").revision)
        await asyncio.sleep(0)
        assert not fast_one.done()
        assert await watcher.read(current_revision) == 0
        may_commit.set()
        seen = await take(watch(watcher, "run", "demo"), 2)
        assert slow_one.result() < fast_one.result()
    assert [row.id for row in seen] == ["slow", "fast"]


async def test_watch_many_writers_on_two_replicas_sees_every_resource(open_database: Any) -> None:
    replicas = [open_database(), open_database()]
    watcher = open_database()
    total = 60

    async def collect() -> list[ResourceRow]:
        return await take(watch(watcher, "run", "-"), total)

    watching = asyncio.create_task(collect())
    await asyncio.gather(
        *(
            replicas[number % 2].run(lambda session, number=number: create(session, f"r{number}"))
            for number in range(total)
        )
    )
    seen = await watching
    assert len({row.id for row in seen}) == total
    assert [row.revision for row in seen] == sorted(row.revision for row in seen)


async def test_watch_resumed_after_a_revision_gives_what_came_later(db: Database) -> None:
    rows = [await db.run(lambda session, id=id: create(session, id)) for id in ("a", "b", "c")]
    later = await take(watch(db, "run", "demo", after_revision=rows[0].revision), 2)
    assert [row.id for row in later] == ["b", "c"]


async def test_watch_after_list_sees_changes_and_deletion(db: Database) -> None:
    row = await db.run(lambda session: create(session, "a"))
    gone = await db.run(lambda session: create(session, "gone"))
    await db.run(lambda session: resources.delete(session, gone, now=NOW))
    page = await db.read(lambda session: resources.list_page(session, "run", "demo", page_size=10))
    stream = watch(db, "run", "demo", after_revision=page.revision)
    row = await db.run(lambda session: resources.update(session, row, state="RUNNING", now=NOW))
    assert [found.state for found in await take(stream, 1)] == ["RUNNING"]
    await db.run(lambda session: resources.delete(session, row, now=NOW))
    assert [found.deleted for found in await take(stream, 1)] == [True]
    fresh = watch(db, "run", "demo")
    await db.run(lambda session: create(session, "new"))
    assert [found.id for found in await take(fresh, 1)] == ["new"]


async def test_watch_of_ids_and_project_leaves_out_the_rest(db: Database) -> None:
    for id, project in (("a", "demo"), ("b", "demo"), ("a", "other"), ("c", "demo")):
        await db.run(lambda session, id=id, project=project: create(session, id, project))
    seen = await take(watch(db, "run", "demo", ids=["a", "c"]), 2)
    assert [(row.id, row.project) for row in seen] == [("a", "demo"), ("c", "demo")]


async def test_watch_from_the_future_is_refused(db: Database) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await take(watch(db, "run", "demo", after_revision=999), 1)
    assert caught.value.reason == "REVISION_AHEAD"


async def test_watch_ends_as_unavailable_when_the_server_stops(db: Database) -> None:
    waiting = asyncio.create_task(take(watch(db, "run", "demo"), 1))
    await db.read(current_revision)
    db.feed.close()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "SHUTTING_DOWN"


async def test_watch_events_gives_each_once_in_order(open_database: Any) -> None:
    writer, watcher = open_database(), open_database()

    def append(session: Session, number: int, id: str = "a") -> EventRow:
        return events.append(
            session, "run", "demo", id, type="STATE", cause="test", message=f"m{number}", data={"n": number}, now=NOW
        )

    written = [await writer.run(lambda session, number=number: append(session, number)) for number in range(3)]
    await writer.run(lambda session: append(session, 9, "b"))
    stream = watch_events(watcher, "run", "demo", "a", after_revision=written[0].revision)
    assert await take(stream, 2) == written[1:]
    last = await writer.run(lambda session: append(session, 4))
    assert await take(stream, 1) == [last]
    listed = await watcher.read(lambda session: events.list_events(session, "run", "demo", "a", limit=2))
    assert listed == written[:2]
