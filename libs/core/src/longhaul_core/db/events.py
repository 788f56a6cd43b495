"""Events of resources: appended, never changed, kept for ever, in commit order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from longhaul_core.db.prepared import Prepared
from longhaul_core.db.revisions import next_revision
from longhaul_core.db.schema import events
from longhaul_core.db.session import Session


@dataclass(frozen=True, slots=True)
class EventRow:
    """What happened to a resource, why, and the facts a program needs."""

    revision: int
    kind: str
    project: str
    id: str
    at: datetime
    type: str
    cause: str
    message: str
    data: dict[str, Any]


_NAMES = [field.name for field in fields(EventRow)]
_COLUMNS = [events.c[name] for name in _NAMES]
_INSERT = Prepared(insert(events))


def append(
    session: Session,
    kind: str,
    project: str,
    id: str,
    *,
    type: str,
    cause: str = "",
    message: str = "",
    data: Mapping[str, Any] | None = None,
    now: datetime,
) -> EventRow:
    """Append an event in the transaction that makes it true."""
    row = EventRow(next_revision(session), kind, project, id, now, type, cause, message, dict(data or {}))
    _INSERT.rows(session, {name: getattr(row, name) for name in _NAMES})
    return row


def list_events(
    session: Session, kind: str, project: str, id: str, after: int = 0, limit: int = 1000
) -> list[EventRow]:
    """Return the events of a resource after a revision, oldest first."""
    statement = (
        select(*_COLUMNS)
        .where(events.c.kind == kind, events.c.project == project, events.c.id == id, events.c.revision > after)
        .order_by(events.c.revision)
        .limit(limit)
    )
    return [EventRow(**found._mapping) for found in session.execute(statement)]
