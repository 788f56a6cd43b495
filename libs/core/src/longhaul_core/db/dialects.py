"""What SQLite and PostgreSQL write differently."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session


def database_now(session: Session) -> datetime:
    """Return the database's wall time in UTC, of this moment and not of the transaction's start.

    Leases of all replicas are judged by this clock.
    """
    if _is_sqlite(session):
        value = session.execute(text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    moment: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment.astimezone(UTC)


def insert_for(session: Session, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return sqlite.insert(table) if _is_sqlite(session) else postgresql.insert(table)


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"
