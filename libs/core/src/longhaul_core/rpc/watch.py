"""Watching: resources and events as they change, at least once, in commit order, resumable after any revision."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

from longhaul_core.db import Database, EventRow, ResourceRow
from longhaul_core.db.events import list_events
from longhaul_core.db.resources import changes
from longhaul_core.db.revisions import current_revision
from longhaul_core.db.session import Session
from longhaul_core.errors import FailedPrecondition

BATCH = 500
"""Rows a read; a slow watcher holds no more than these."""


class Cancellable(Protocol):
    """What a watch asks of the call it serves (`grpc.aio.ServicerContext` has it)."""

    def cancelled(self) -> bool:
        """Tell whether the caller went away."""
        ...


class _Revised(Protocol):
    @property
    def revision(self) -> int: ...


RevisedT = TypeVar("RevisedT", bound=_Revised)


async def watch(
    db: Database,
    kind: str,
    project: str,
    *,
    after_revision: int = 0,
    ids: Collection[str] | None = None,
    context: Cancellable | None = None,
) -> AsyncIterator[ResourceRow]:
    """Yield each resource that changed after a revision, as it is when it is read, and go on for ever.

    Changes between two reads are seen as one. Deleted resources come with `deleted` set, except at the start of a watch
    from 0. A consumer that resumes after the last revision it saw misses nothing.

    Args:
        db: The database.
        kind: The kind of resource.
        project: Its project, `-` for all.
        after_revision: 0 for all that exist now and then on.
        ids: Only these.
        context: The call that is served; the watch ends with it.

    Raises:
        FailedPrecondition: `after_revision` is above all revisions of this database (REVISION_AHEAD).
        Unavailable: The server shuts down (SHUTTING_DOWN).
    """

    def fetch(session: Session, after: int) -> Sequence[ResourceRow]:
        return changes(session, kind, project, after, BATCH, ids=ids)

    existing_until = await db.read(current_revision) if after_revision == 0 else 0
    async for row in _follow(db, fetch, after_revision, context):
        if row.deleted and row.revision <= existing_until:
            continue
        yield row


async def watch_events(
    db: Database,
    kind: str,
    project: str,
    id: str,
    *,
    after_revision: int = 0,
    context: Cancellable | None = None,
) -> AsyncIterator[EventRow]:
    """Yield the events of a resource after a revision, and go on for ever; each event once.

    Raises:
        FailedPrecondition: `after_revision` is above all revisions of this database (REVISION_AHEAD).
        Unavailable: The server shuts down (SHUTTING_DOWN).
    """

    def fetch(session: Session, after: int) -> Sequence[EventRow]:
        return list_events(session, kind, project, id, after, BATCH)

    async for row in _follow(db, fetch, after_revision, context):
        yield row


async def _follow(
    db: Database,
    fetch: Callable[[Session, int], Sequence[RevisedT]],
    after_revision: int,
    context: Cancellable | None,
) -> AsyncIterator[RevisedT]:
    """Yield what `fetch` finds; the position moves to the snapshot's revision where all of it was read."""

    def read(session: Session) -> tuple[Sequence[RevisedT], int]:
        revision = current_revision(session)
        if position > revision:
            raise _ahead(position, revision)
        rows = fetch(session, position)
        return rows, revision if len(rows) < BATCH else rows[-1].revision

    position = after_revision
    while context is None or not context.cancelled():
        rows, seen = await db.read(read)
        for row in rows:
            yield row
        position = seen
        if len(rows) < BATCH:
            await db.feed.wait_beyond(position)


def _ahead(position: int, revision: int) -> FailedPrecondition:
    metadata: dict[str, Any] = {"after_revision": str(position), "newest_revision": str(revision)}
    return FailedPrecondition(
        f"after_revision {position} is above the newest revision {revision}",
        reason="REVISION_AHEAD",
        metadata=metadata,
        action="list again and watch after the revision of that list",
    )
