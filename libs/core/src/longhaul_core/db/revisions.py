"""Revisions: one counter for all resources and events of a database.

A revision is taken by updating the counter's row, which stays locked until the transaction ends. So transactions that
take revisions commit in the order of their revisions, and whoever has seen revision n has missed none below it. A plain
sequence would not give that: a transaction could commit a lower number after a reader has passed it.
"""

from __future__ import annotations

from sqlalchemy import bindparam, select, update

from longhaul_core.db.dialects import is_sqlite
from longhaul_core.db.prepared import Prepared
from longhaul_core.db.schema import counters
from longhaul_core.db.session import Session

REVISION_COUNTER = "revision"
_TAKEN = "longhaul_revision"

_COUNTER = counters.c.name == REVISION_COUNTER
_TAKE = Prepared(
    update(counters).where(_COUNTER).values(value=counters.c.value + bindparam("taken")).returning(counters.c.value)
)
_SELECT = select(counters.c.value).where(_COUNTER)
_READ = Prepared(_SELECT)
_LOCK = _SELECT.with_for_update()


def next_revision(session: Session) -> int:
    """Take the next revision and hold the counter until the transaction ends."""
    return take_revisions(session, 1).start


def take_revisions(session: Session, count: int) -> range:
    """Take the next `count` revisions in one step."""
    if count == 0:
        return range(0)
    [[last]] = _TAKE.rows(session, {"taken": count})
    session.info[_TAKEN] = last
    return range(last - count + 1, last + 1)


def lock_revisions(session: Session) -> None:
    """Keep every other writer of resources waiting until this transaction ends, without taking a revision."""
    if not is_sqlite(session):  # where a write transaction holds the whole database anyway
        session.execute(_LOCK)


def current_revision(session: Session) -> int:
    """Return the last revision that is committed, or that this transaction took."""
    [[value]] = _READ.rows(session, {})
    return int(value)


def taken_revision(session: Session) -> int | None:
    """Return the last revision that the session's transaction took, if it took one."""
    value: int | None = session.info.get(_TAKEN)
    return value
