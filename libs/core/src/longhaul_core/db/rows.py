"""The rows of resources, and the statements that find and write them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, insert, select, update

from longhaul_core.db.prepared import Prepared
from longhaul_core.db.schema import resources
from longhaul_core.db.session import Session
from longhaul_core.ids import ANY_PROJECT


@dataclass(frozen=True, slots=True)
class ResourceRow:
    """A resource as it is stored. `spec` is what was asked for, `status` what became of it; treat both as read-only."""

    kind: str
    project: str
    id: str
    uid: str
    revision: int
    fingerprint: str
    request_id: str
    state: str
    spec: dict[str, Any]
    status: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    deleted: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a List; a Watch after `revision` misses nothing that the page did not show."""

    rows: tuple[ResourceRow, ...]
    next_page_token: str
    revision: int


NAMES = tuple(field.name for field in fields(ResourceRow))
COLUMNS = [resources.c[name] for name in NAMES]
_INSERT = Prepared(insert(resources))
_IN_PROJECT = and_(resources.c.kind == bindparam("of_kind"), resources.c.project == bindparam("of_project"))
_BY_ID = Prepared(select(*COLUMNS).where(_IN_PROJECT, resources.c.id == bindparam("of_id")))
_BY_REQUEST = Prepared(
    select(*COLUMNS).where(_IN_PROJECT, resources.c.request_id == bindparam("of_request"), ~resources.c.deleted)
)


@lru_cache(maxsize=64)
def change_of(names: frozenset[str], returned: tuple[str, ...]) -> Prepared:
    """The statement that sets these columns and the revision of a row, where it is still as it was read.

    It gives back the columns in `returned`, as they are stored.
    """
    still = and_(resources.c.uid == bindparam("of_uid"), resources.c.revision == bindparam("of_revision"))
    return Prepared(
        update(resources)
        .where(_IN_PROJECT, resources.c.id == bindparam("of_id"), still)
        .values({name: bindparam(name) for name in sorted({*names, "revision"})})
        .returning(*(resources.c[name] for name in returned))
    )


@lru_cache(maxsize=2)
def changes_after(*, in_project: bool) -> Prepared:
    """The statement that finds what changed of a kind after a revision, of one project or of all."""
    place = _IN_PROJECT if in_project else resources.c.kind == bindparam("of_kind")
    return Prepared(
        select(*COLUMNS)
        .where(place, resources.c.revision > bindparam("after"))
        .order_by(resources.c.revision)
        .limit(bindparam("at_most"))
    )


def find_any(session: Session, kind: str, project: str, id: str) -> ResourceRow | None:
    """Return the row of an id, also where it only marks a deleted resource."""
    found = _BY_ID.first(session, {"of_kind": kind, "of_project": project, "of_id": id})
    return row_of(found) if found else None


def find_by_request(session: Session, kind: str, project: str, request_id: str) -> ResourceRow | None:
    """Return the resource that a request made."""
    found = _BY_REQUEST.first(session, {"of_kind": kind, "of_project": project, "of_request": request_id})
    return row_of(found) if found else None


def insert_row(session: Session, row: ResourceRow) -> None:
    """Write a new row."""
    _INSERT.rows(session, {name: getattr(row, name) for name in NAMES})


def select_rows() -> Select[Any]:
    """Select whole rows."""
    return select(*COLUMNS)


def listing(kind: str, project: str, states: Collection[str] | None) -> Select[Any]:
    """Select the resources of a kind that exist, in one project or in all (`-`), in some states or in any."""
    statement = select_rows().where(resources.c.kind == kind, ~resources.c.deleted)
    if project != ANY_PROJECT:
        statement = statement.where(resources.c.project == project)
    if states:
        statement = statement.where(resources.c.state.in_(sorted(states)))
    return statement


def key(kind: str, project: str, id: str) -> ColumnElement[bool]:
    """Match the row of an id."""
    return and_(resources.c.kind == kind, resources.c.project == project, resources.c.id == id)


def row_of(found: Sequence[Any]) -> ResourceRow:
    """Return a row that was found, whose columns are those of `COLUMNS`."""
    return ResourceRow(*found)
