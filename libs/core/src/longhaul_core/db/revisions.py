"""Revisions: one counter for all resources and events of a database.

A revision is taken by updating the counter's row, which stays locked until the transaction ends. So transactions that
take revisions commit in the order of their revisions, and whoever has seen revision n has missed none below it. A plain
sequence would not give that: a transaction could commit a lower number after a reader has passed it.
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from longhaul_core.db.schema import counters

REVISION_COUNTER = "revision"
_TAKEN = "longhaul_revision"


def next_revision(session: Session) -> int:
    """Take the next revision and hold the counter until the transaction ends."""
    value = session.execute(
        update(counters)
        .where(counters.c.name == REVISION_COUNTER)
        .values(value=counters.c.value + 1)
        .returning(counters.c.value)
    ).scalar_one()
    session.info[_TAKEN] = int(value)
    return int(value)


def lock_revisions(session: Session) -> None:
    """Keep every other writer of resources waiting until this transaction ends, without taking a revision."""
    session.execute(select(counters.c.value).where(counters.c.name == REVISION_COUNTER).with_for_update())


def current_revision(session: Session) -> int:
    """Return the last revision that is committed, or that this transaction took."""
    return int(session.execute(select(counters.c.value).where(counters.c.name == REVISION_COUNTER)).scalar_one())


def taken_revision(session: Session) -> int | None:
    """Return the last revision that the session's transaction took, if it took one."""
    value: int | None = session.info.get(_TAKEN)
    return value
