"""Many resources of one kind and their events in one transaction: a few statements in all, not several for each.

For writers that hold the lock of the revisions (`lock_revisions`) since before they read, so that nothing conflicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, update

from longhaul_core.db.revisions import take_revisions
from longhaul_core.db.rows import ResourceRow, row_of, select_rows
from longhaul_core.db.schema import events, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted
from longhaul_core.ids import new_uid

FOUND_AT_ONCE = 500
"""Ids in one statement; databases limit the parameters of one."""

_PLACE = and_(
    resources.c.kind == bindparam("of_kind"),
    resources.c.project == bindparam("of_project"),
    resources.c.id == bindparam("of_id"),
)
_UPDATE = (
    update(resources)
    .where(_PLACE, resources.c.revision == bindparam("of_revision"))
    .values({name: bindparam(f"new_{name}") for name in ("revision", "state", "status", "updated_at")})
)
_DELETE = delete(resources).where(_PLACE)
_INSERT = insert(resources)
_TELL = insert(events)


@dataclass(frozen=True, slots=True)
class Saved:
    """A resource as it shall be. `row`: as it is stored, also where that marks a deleted one; None: it is new."""

    id: str
    state: str
    status: Mapping[str, Any]
    row: ResourceRow | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """An event of the resource `id`."""

    id: str
    type: str
    cause: str = ""
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def find_many(session: Session, kind: str, project: str, ids: Sequence[str]) -> dict[str, ResourceRow]:
    """Return resources by id, also those that only mark deleted ones; what was never there is left out."""
    found: dict[str, ResourceRow] = {}
    for first in range(0, len(ids), FOUND_AT_ONCE):
        wanted = ids[first : first + FOUND_AT_ONCE]
        statement = select_rows().where(
            resources.c.kind == kind, resources.c.project == project, resources.c.id.in_(wanted)
        )
        found |= {row.id: row for row in map(row_of, session.execute(statement))}
    return found


def save_many(
    session: Session, kind: str, project: str, saves: Sequence[Saved], told: Sequence[Told], now: datetime
) -> dict[str, ResourceRow]:
    """Write resources and append events, and return the resources as they are now, by id; each id at most once.

    Raises:
        Aborted: Someone changed one of them since it was read (REVISION_CONFLICT); then nothing may be committed.
    """
    revisions = iter(take_revisions(session, len(saves) + len(told)))
    written = {one.id: _row(one, kind, project, next(revisions), now) for one in saves}
    changed = [(one.row, written[one.id]) for one in saves if one.row is not None and not one.row.deleted]
    made = [(one.row, written[one.id]) for one in saves if one.row is None or one.row.deleted]
    if changed:
        outcome = session.execute(_UPDATE, [_changes(before, after) for before, after in changed])
        if outcome.rowcount != len(changed):
            raise Aborted(f"one of {len(changed)} resources of kind {kind} changed", reason="REVISION_CONFLICT")
    if marks := [_place(before) for before, _ in made if before is not None]:
        session.execute(_DELETE, marks)
    if made:
        session.execute(_INSERT, [_columns(after) for _, after in made])
    if told:
        rows = [_event(one, kind, project, next(revisions), now) for one in told]
        session.execute(_TELL, rows)
    return written


def _row(saved: Saved, kind: str, project: str, revision: int, now: datetime) -> ResourceRow:
    row, status = saved.row, dict(saved.status)
    if row is not None and not row.deleted:
        return replace(row, revision=revision, state=saved.state, status=status, updated_at=now)
    return ResourceRow(
        kind=kind,
        project=project,
        id=saved.id,
        uid=new_uid(),
        revision=revision,
        fingerprint=saved.fingerprint,
        request_id="",
        state=saved.state,
        spec={},
        status=status,
        created_at=now,
        updated_at=now,
        deleted=False,
    )


def _place(row: ResourceRow) -> dict[str, Any]:
    return {"of_kind": row.kind, "of_project": row.project, "of_id": row.id}


def _changes(before: ResourceRow, after: ResourceRow) -> dict[str, Any]:
    return {
        **_place(before),
        "of_revision": before.revision,
        "new_revision": after.revision,
        "new_state": after.state,
        "new_status": after.status,
        "new_updated_at": after.updated_at,
    }


def _columns(row: ResourceRow) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in resources.columns}


def _event(told: Told, kind: str, project: str, revision: int, now: datetime) -> dict[str, Any]:
    return {
        "revision": revision,
        "kind": kind,
        "project": project,
        "id": told.id,
        "at": now,
        "type": told.type,
        "cause": told.cause,
        "message": told.message,
        "data": dict(told.data),
    }
