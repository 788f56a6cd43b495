"""Resources of every kind in one table: create once, read, list by pages, change by revision, watch.

A deleted resource leaves its row as a mark, so that watchers learn of it; a new resource may take its id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, tuple_

from longhaul_core.db.differences import differences
from longhaul_core.db.revisions import current_revision, lock_revisions, next_revision
from longhaul_core.db.rows import (
    NAMES,
    Page,
    ResourceRow,
    change_of,
    changes_after,
    find_any,
    find_by_request,
    insert_row,
    key,
    listing,
    row_of,
    select_rows,
)
from longhaul_core.db.schema import resources
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted, AlreadyExists, InvalidArgument, NotFound
from longhaul_core.ids import ANY_PROJECT, new_uid
from longhaul_core.rpc.paging import decode_page_token, encode_page_token

__all__ = [
    "Page",
    "ResourceRow",
    "changes",
    "count",
    "create",
    "delete",
    "find",
    "get",
    "list_all",
    "list_page",
    "update",
]

_SHOWN_DIFFERENCES = 12


def create(
    session: Session,
    *,
    kind: str,
    project: str,
    id: str,
    spec: Mapping[str, Any],
    state: str,
    status: Mapping[str, Any] | None = None,
    fingerprint: str,
    request_id: str = "",
    now: datetime,
) -> tuple[ResourceRow, bool]:
    """Create a resource, or return the one that the same request made before.

    Returns:
        The resource, and whether it was created now.

    Raises:
        AlreadyExists: The id belongs to a resource of another fingerprint (SPEC_DIFFERS; the metadata names each
            differing path, old -> new).
        InvalidArgument: The request id made another resource before.
    """
    lock_revisions(session)
    place = find_any(session, kind, project, id)
    existing = _find_earlier(session, kind, project, id, fingerprint, request_id)
    if existing is None and place is not None and not place.deleted:
        existing = place
    if existing is not None:
        if request_id and existing.request_id == request_id:
            return existing, False
        if existing.fingerprint != fingerprint:
            raise _spec_differs(existing, dict(spec))
        return existing, False
    row = ResourceRow(
        kind=kind,
        project=project,
        id=id,
        uid=new_uid(),
        revision=next_revision(session),
        fingerprint=fingerprint,
        request_id=request_id,
        state=state,
        spec=dict(spec),
        status=dict(status or {}),
        created_at=now,
        updated_at=now,
        deleted=False,
    )
    if place is not None:  # the mark of a deleted one
        session.execute(sql_delete(resources).where(key(kind, project, id)))
    insert_row(session, row)
    return row, True


def find(session: Session, kind: str, project: str, id: str) -> ResourceRow | None:
    """Return a resource, or None where it does not exist or is deleted."""
    row = find_any(session, kind, project, id)
    return row if row is not None and not row.deleted else None


def get(session: Session, kind: str, project: str, id: str, *, for_update: bool = False) -> ResourceRow:
    """Return a resource.

    Args:
        session: The transaction.
        kind: The kind of resource.
        project: Its project; empty for kinds that belong to none.
        id: Its id.
        for_update: Keep other writers waiting until this transaction ends, so that an `update` cannot conflict.

    Raises:
        NotFound: There is none.
    """
    if for_update:
        lock_revisions(session)
    row = find(session, kind, project, id)
    if row is None:
        place = f" in project {project!r}" if project else ""
        raise NotFound(
            f"there is no {kind} {id!r}{place}",
            reason=f"{kind.upper().replace('-', '_')}_NOT_FOUND",
            metadata={"kind": kind, "project": project, "id": id},
        )
    return row


def update(
    session: Session,
    row: ResourceRow,
    *,
    state: str | None = None,
    status: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    expected_revision: int | None = None,
    now: datetime,
) -> ResourceRow:
    """Change a resource that is still as `row` (or as of `expected_revision`), and return it as it is now.

    Raises:
        Aborted: Someone changed it in between (REVISION_CONFLICT).
    """
    values = {
        name: value
        for name, value in (("state", state), ("status", status), ("spec", spec), ("fingerprint", fingerprint))
        if value is not None
    }
    return _write(session, row, expected_revision, {**values, "updated_at": now})


def delete(session: Session, row: ResourceRow, *, expected_revision: int | None = None, now: datetime) -> ResourceRow:
    """Delete a resource that is still as `row`; watchers see it once more, with `deleted` set.

    Raises:
        Aborted: Someone changed it in between (REVISION_CONFLICT).
    """
    return _write(session, row, expected_revision, {"deleted": True, "updated_at": now})


def list_page(
    session: Session,
    kind: str,
    project: str,
    *,
    page_size: int,
    page_token: str = "",
    states: Collection[str] | None = None,
) -> Page:
    """List resources, newest first; the project `-` stands for all.

    Raises:
        InvalidArgument: The token is not of this query.
    """
    query = [kind, project, sorted(states or ())]
    statement = listing(kind, project, states).order_by(resources.c.created_at.desc(), resources.c.uid.desc())
    position = decode_page_token(page_token, query)
    if position is not None:
        created_at, uid = datetime.fromisoformat(position[0]), position[1]
        statement = statement.where(tuple_(resources.c.created_at, resources.c.uid) < (created_at, uid))
    revision = current_revision(session)
    rows = [row_of(found) for found in session.execute(statement.limit(page_size + 1))]
    shown = tuple(rows[:page_size])
    more = len(rows) > page_size
    token = encode_page_token([shown[-1].created_at.isoformat(), shown[-1].uid], query) if more else ""
    return Page(shown, token, revision)


def list_all(
    session: Session, kind: str, *, project: str = ANY_PROJECT, states: Collection[str] | None = None
) -> list[ResourceRow]:
    """Return all resources of a kind, oldest first, for loops that reconcile."""
    statement = listing(kind, project, states).order_by(resources.c.created_at, resources.c.uid)
    return [row_of(found) for found in session.execute(statement)]


def changes(
    session: Session,
    kind: str,
    project: str,
    after_revision: int,
    limit: int,
    *,
    ids: Collection[str] | None = None,
) -> list[ResourceRow]:
    """Return the resources changed after a revision, deleted ones too, in the order of their last change."""
    in_project = project != ANY_PROJECT
    if ids is None:
        place = {"of_kind": kind, "after": after_revision, "at_most": limit}
        given = {**place, "of_project": project} if in_project else place
        return [row_of(found) for found in changes_after(in_project=in_project).rows(session, given)]
    statement = select_rows().where(resources.c.kind == kind, resources.c.revision > after_revision)
    if in_project:
        statement = statement.where(resources.c.project == project)
    statement = statement.where(resources.c.id.in_(sorted(ids)))
    return [row_of(found) for found in session.execute(statement.order_by(resources.c.revision).limit(limit))]


def count(session: Session, kind: str, project: str, *, states: Collection[str] | None = None) -> int:
    """Return the number of resources."""
    statement = listing(kind, project, states).with_only_columns(func.count())
    return int(session.execute(statement).scalar_one())


def _find_earlier(
    session: Session, kind: str, project: str, id: str, fingerprint: str, request_id: str
) -> ResourceRow | None:
    if not request_id:
        return None
    row = find_by_request(session, kind, project, request_id)
    if row is None:
        return None
    if id not in ("", row.id) and row.fingerprint != fingerprint:
        raise InvalidArgument(
            f"request_id {request_id!r} made {row.kind} {row.id!r} before and cannot make {id!r}",
            reason="REQUEST_ID_REUSED",
            violations=[("request_id", "was used for another request")],
            action="use a new request_id for each request that is not a repetition",
        )
    return row


def _write(session: Session, row: ResourceRow, expected_revision: int | None, values: Mapping[str, Any]) -> ResourceRow:
    expected = row.revision if expected_revision is None else expected_revision
    revision = next_revision(session)
    place = {
        "of_kind": row.kind,
        "of_project": row.project,
        "of_id": row.id,
        "of_uid": row.uid,
        "of_revision": expected,
    }
    # What a row that is still as it was read has in its other columns is known: JSON is costly to read again.
    returned = (*sorted(values), "revision") if expected == row.revision else NAMES
    statement = change_of(frozenset(values), returned)
    written = statement.first(session, {**place, **values, "revision": revision})
    if written is None:
        raise Aborted(
            f"{row.kind} {row.id!r} changed since revision {expected}",
            reason="REVISION_CONFLICT",
            metadata={"kind": row.kind, "id": row.id, "expected_revision": str(expected)},
            action="read it again and decide anew",
        )
    return replace(row, **dict(zip(returned, written, strict=True)))


def _spec_differs(existing: ResourceRow, spec: dict[str, Any]) -> AlreadyExists:
    differing = differences(existing.spec, spec)
    shown = dict(list(differing.items())[:_SHOWN_DIFFERENCES])
    listed = ", ".join(f"{path}: {change}" for path, change in shown.items()) or "the inputs differ"
    left = len(differing) - len(shown)
    return AlreadyExists(
        f"{existing.kind} {existing.id!r} exists with another specification: {listed}"
        + (f" and {left} more" if left else ""),
        reason="SPEC_DIFFERS",
        metadata=shown,
        action="use another id for the new specification, or the same specification for this id",
    )
