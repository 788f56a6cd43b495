from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from longhaul_core.db import Database, Lease, leases, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted

NAME = "controller"


def acquire(db: Database, holder: str, ttl_seconds: float = 60) -> Lease | None:
    return db.run_sync(lambda session: leases.acquire(session, NAME, holder, f"{holder}:1", ttl_seconds))


def must_acquire(db: Database, holder: str, ttl_seconds: float = 60) -> Lease:
    lease = acquire(db, holder, ttl_seconds)
    assert lease is not None
    return lease


def test_acquire_free_lease_has_first_term(db: Database) -> None:
    lease = must_acquire(db, "one")
    assert (lease.term, lease.holder, lease.address) == (1, "one", "one:1")
    assert lease.expires_at > datetime.now(UTC)
    assert db.read_sync(lambda session: leases.find(session, NAME)) == lease


def test_acquire_held_lease_gives_none(db: Database) -> None:
    must_acquire(db, "one")
    assert acquire(db, "two") is None


def test_acquire_own_lease_keeps_its_term(db: Database) -> None:
    first = must_acquire(db, "one")
    again = must_acquire(db, "one", 120)
    assert again.term == first.term
    assert again.expires_at > first.expires_at


def test_expired_lease_passes_on_with_higher_term_and_fences_the_old(db: Database) -> None:
    old = must_acquire(db, "one", ttl_seconds=-1)
    new = must_acquire(db, "two")
    assert new.term == old.term + 1
    with pytest.raises(Aborted) as caught:
        db.run_sync(lambda session: leases.check_term(session, NAME, old.term))
    assert caught.value.reason == "STALE_TERM"
    assert caught.value.metadata["newest_term"] == "2"
    with pytest.raises(Aborted):
        db.run_sync(lambda session: leases.renew(session, old, 60))
    db.run_sync(lambda session: leases.release(session, old))
    assert db.read_sync(lambda session: leases.find(session, NAME)) == new


def test_own_expired_lease_taken_again_has_higher_term(db: Database) -> None:
    old = must_acquire(db, "one", ttl_seconds=-1)
    assert must_acquire(db, "one").term == old.term + 1


def test_released_lease_is_free_at_once_and_its_term_is_over(db: Database) -> None:
    old = must_acquire(db, "one")
    db.run_sync(lambda session: leases.release(session, old))
    assert db.read_sync(lambda session: leases.find(session, NAME)) is None
    with pytest.raises(Aborted):
        db.run_sync(lambda session: leases.check_term(session, NAME, old.term))
    assert must_acquire(db, "two").term == old.term + 1


def test_check_term_of_a_lease_never_taken_is_refused(db: Database) -> None:
    with pytest.raises(Aborted):
        db.run_sync(lambda session: leases.check_term(session, NAME, 1))


def test_replicas_racing_for_a_lease_make_one_holder(open_database: Any) -> None:
    replicas = [open_database(), open_database()]
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda number: acquire(replicas[number % 2], f"holder-{number}"), range(8)))
    assert sum(lease is not None for lease in taken) == 1


def test_write_under_a_checked_term_ends_before_another_term_begins(open_database: Any) -> None:
    """The holder is paused in the middle of a write after its lease ran out: no new term overtakes the write."""
    holder, successor = open_database(), open_database()
    old = must_acquire(holder, "one", ttl_seconds=-1)
    checked, go_on = threading.Event(), threading.Event()
    now = datetime.now(UTC)

    def write(session: Session) -> None:
        leases.check_term(session, NAME, old.term)
        checked.set()
        go_on.wait(5)
        resources.create(session, kind="run", project="p", id="x", spec={}, state="S", fingerprint="f", now=now)

    def succeed(session: Session) -> bool:
        lease = leases.acquire(session, NAME, "two", "two:1", 60)
        assert lease is not None
        assert lease.term == old.term + 1
        return resources.find(session, "run", "p", "x") is not None

    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(holder.run_sync, write)
        checked.wait(5)
        succeeding = threads.submit(successor.run_sync, succeed)
        assert not succeeding.done()
        go_on.set()
        writing.result(10)
        assert succeeding.result(10), "the new term began before the write of the old one was visible"
