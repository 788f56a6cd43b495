"""Transactions that wait together are carried out together, and nobody notices."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import AlreadyExists, NotFound
from sqlalchemy import event

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def creating(identifier: str, size: int = 1) -> Callable[[Session], ResourceRow]:
    def create(session: Session) -> ResourceRow:
        spec = {"size": size}
        row, _ = resources.create(
            session, kind="thing", project="p", id=identifier, spec=spec, state="NEW", fingerprint=str(size), now=NOW
        )
        return row

    return create


def getting(identifier: str) -> Callable[[Session], ResourceRow]:
    return lambda session: resources.get(session, "thing", "p", identifier)


class Holding:
    """A transaction that stays open until it is released, so that others wait behind it."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self, session: Session) -> None:
        self.begun.set()
        assert self.release.wait(30)

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 30)


def count_transactions(db: Database) -> list[object]:
    seen: list[object] = []
    event.listen(db._engine, "begin", seen.append)
    return seen


async def hold_all(db: Database, start: Callable[[Holding], asyncio.Task[None]], threads: int) -> list[Holding]:
    """Occupies every thread, one after the other."""
    held = []
    for _ in range(threads):
        held.append(Holding())
        start(held[-1])
        await held[-1].wait()
    return held


async def hold_writers(db: Database) -> list[Holding]:
    threads = 1 if db.is_sqlite else 4
    return await hold_all(db, lambda held: asyncio.create_task(db.run(held)), threads)


async def hold_readers(db: Database, threads: int = 4) -> list[Holding]:
    return await hold_all(db, lambda held: asyncio.create_task(db.read(held)), threads)


def release(held: list[Holding]) -> None:
    for one in held:
        one.release.set()


async def waiting(*calls: asyncio.Future[object]) -> None:
    """Lets calls come as far as the queue."""
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)


async def test_writes_that_wait_share_a_transaction(db: Database) -> None:
    held = await hold_writers(db)
    transactions = count_transactions(db)
    calls = [asyncio.ensure_future(db.run(creating(f"t{number}"))) for number in range(20)]
    await waiting(*calls)
    release(held)
    rows = await asyncio.gather(*calls)
    assert [row.id for row in rows] == [f"t{number}" for number in range(20)]
    assert len({row.revision for row in rows}) == 20
    assert len(transactions) <= 4
    assert len(await db.read(lambda session: resources.list_all(session, "thing"))) == 20


async def test_write_that_fails_takes_no_other_with_it(db: Database) -> None:
    await db.run(creating("taken"))

    def half(session: Session) -> None:
        creating("half")(session)
        creating("taken", size=2)(session)

    held = await hold_writers(db)
    calls = [asyncio.ensure_future(db.run(fn)) for fn in (creating("before"), half, creating("after"))]
    await waiting(*calls)
    release(held)
    before, failed, after = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(failed, AlreadyExists)
    assert (before.id, after.id) == ("before", "after")
    found = await db.read(lambda session: {row.id for row in resources.list_all(session, "thing")})
    assert found == {"taken", "before", "after"}


async def test_read_that_finds_nothing_fails_alone(db: Database) -> None:
    await db.run(creating("there"))
    held = await hold_readers(db)
    calls = [asyncio.ensure_future(db.read(getting(name))) for name in ("there", "nowhere", "there")]
    await waiting(*calls)
    transactions = count_transactions(db)
    release(held)
    first, missing, last = await asyncio.gather(*calls, return_exceptions=True)
    assert first == last
    assert isinstance(missing, NotFound)
    assert len(transactions) <= 2


async def test_slow_read_does_not_hold_up_those_behind_it(db: Database) -> None:
    await db.run(creating("there"))
    held = await hold_readers(db, threads=1)
    row = await asyncio.wait_for(db.read(getting("there")), 30)
    assert row.id == "there"
    assert not held[0].release.is_set()
    release(held)


async def test_write_whose_caller_went_away_while_it_waited_is_not_made(db: Database) -> None:
    held = await hold_writers(db)
    gone = asyncio.ensure_future(db.run(creating("gone")))
    await waiting(gone)
    gone.cancel()
    await asyncio.wait([gone])
    release(held)
    await db.run(creating("later"))
    with pytest.raises(NotFound):
        await db.read(getting("gone"))


async def test_each_caller_is_told_where_the_database_fails_all(db: Database) -> None:
    held = await hold_writers(db)

    def broken(session: Session) -> None:
        raise RuntimeError("this one")

    calls = [asyncio.ensure_future(db.run(fn)) for fn in (broken, creating("well"), broken)]
    await waiting(*calls)
    release(held)
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(first), type(third)] == [RuntimeError, RuntimeError]
    assert second.id == "well"


async def test_writes_whose_commit_may_have_been_made_are_not_made_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await hold_writers(db)
    made: list[str] = []

    def counted(identifier: str) -> Callable[[Session], ResourceRow]:
        def create(session: Session) -> ResourceRow:
            made.append(identifier)
            return creating(identifier)(session)

        return create

    def lost(revision: int) -> None:
        raise ConnectionError("the answer to the commit was lost")

    calls = [asyncio.ensure_future(db.run(counted(name))) for name in ("one", "two")]
    await waiting(*calls)
    monkeypatch.setattr(db.feed, "notify", lost)
    release(held)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError, ConnectionError]
    assert made == ["one", "two"]
    assert len(await db.read(lambda session: resources.list_all(session, "thing"))) == 2
