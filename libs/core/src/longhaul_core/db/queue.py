"""Work queue: items of a job's phase, claimed by any replica with lease and term.

A claim raises the item's term; only the claim of the newest term can renew, complete or fail the item, so a replica
that was paused past its lease changes nothing. Each result therefore counts once, whoever worked on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, select, update
from sqlalchemy import delete as sql_delete

from longhaul_core.db.dialects import database_now, insert_for
from longhaul_core.db.schema import work_items
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted

QUEUED, CLAIMED, DONE, FAILED = "queued", "claimed", "done", "failed"


@dataclass(frozen=True, slots=True)
class Claim:
    """An item in the hands of one owner until `expires_at`; `attempts` counts this one.

    `error` is what `fail` recorded last, empty where the item has not failed yet.
    """

    item_id: int
    job: str
    phase: str
    index: int
    payload: dict[str, Any]
    owner: str
    term: int
    attempts: int
    expires_at: datetime
    error: str = ""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many items of a job's phase are in which state."""

    queued: int = 0
    claimed: int = 0
    done: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All items."""
        return self.queued + self.claimed + self.done + self.failed

    @property
    def finished(self) -> bool:
        """Whether no item is left to work on."""
        return self.queued == 0 and self.claimed == 0


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item that is given up, with its last error."""

    index: int
    payload: dict[str, Any]
    attempts: int
    error: str


def enqueue(session: Session, job: str, phase: str, items: Sequence[Mapping[str, Any]]) -> int:
    """Queue the items of a phase at the positions 0, 1, …; positions that exist already stay as they are.

    Returns:
        The number of items that are new.
    """
    now = database_now(session)
    before = counts(session, job, phase).total
    fixed = {"job": job, "phase": phase, "state": QUEUED, "owner": "", "term": 0, "attempts": 0, "error": ""}
    rows = [
        {**fixed, "position": position, "payload": dict(payload), "available_at": now}
        for position, payload in enumerate(items)
    ]
    if rows:
        session.execute(insert_for(session, work_items).on_conflict_do_nothing(), rows)
    return counts(session, job, phase).total - before


def claim(
    session: Session,
    *,
    job_prefix: str = "",
    phases: Sequence[str] = (),
    owner: str,
    lease_seconds: float,
    now: datetime | None = None,
) -> Claim | None:
    """Take the oldest item whose lease ran out, else the oldest that waits; None where there is none.

    Args:
        session: The transaction.
        job_prefix: Only jobs whose name starts so.
        phases: Only these phases; empty for all.
        owner: Who works on it.
        lease_seconds: How long the claim holds without `renew`.
        now: The time; the database's clock unless a test says otherwise.
    """
    moment = now or database_now(session)
    filters = _filters(job_prefix, phases)
    found = _oldest(session, CLAIMED, moment, filters) or _oldest(session, QUEUED, moment, filters)
    if found is None:
        return None
    claimed = Claim(
        item_id=found.item_id,
        job=found.job,
        phase=found.phase,
        index=found.position,
        payload=found.payload,
        owner=owner,
        term=found.term + 1,
        attempts=found.attempts + 1,
        expires_at=moment + timedelta(seconds=lease_seconds),
        error=found.error,
    )
    session.execute(
        update(work_items)
        .where(work_items.c.item_id == found.item_id)
        .values(
            state=CLAIMED,
            owner=owner,
            term=claimed.term,
            attempts=claimed.attempts,
            available_at=claimed.expires_at,
        )
    )
    return claimed


def renew(session: Session, claim: Claim, lease_seconds: float, now: datetime | None = None) -> Claim:
    """Hold an item for another `lease_seconds` from now.

    Raises:
        Aborted: The claim is stale (STALE_TERM).
    """
    expires_at = (now or database_now(session)) + timedelta(seconds=lease_seconds)
    _settle(session, claim, available_at=expires_at)
    return replace(claim, expires_at=expires_at)


def complete(session: Session, claim: Claim, result: Mapping[str, Any]) -> None:
    """Record the result of an item, once.

    Raises:
        Aborted: The claim is stale (STALE_TERM): the item was taken over, or its job was discarded.
    """
    _settle(session, claim, state=DONE, result=dict(result), owner="", error="")


def fail(
    session: Session,
    claim: Claim,
    error: str,
    *,
    retry: bool,
    delay_seconds: float = 0.0,
    now: datetime | None = None,
) -> None:
    """Record that an item failed; with `retry` it waits for the next attempt, else it is given up.

    Raises:
        Aborted: The claim is stale (STALE_TERM).
    """
    available_at = (now or database_now(session)) + timedelta(seconds=delay_seconds)
    _settle(session, claim, state=QUEUED if retry else FAILED, error=error, owner="", available_at=available_at)


def release(session: Session, claim: Claim, now: datetime | None = None) -> None:
    """Put an item back unfinished, for a replica that drains; the attempt is not counted.

    Raises:
        Aborted: The claim is stale (STALE_TERM).
    """
    moment = now or database_now(session)
    _settle(session, claim, state=QUEUED, owner="", attempts=claim.attempts - 1, available_at=moment)


def requeue(session: Session, job: str, phase: str, index: int, payload: Mapping[str, Any]) -> None:
    """Queue an item again that was given up, with another payload and no failure on record."""
    given_up = (_phase(job, phase), work_items.c.position == index, work_items.c.state == FAILED)
    fresh = {"state": QUEUED, "payload": dict(payload), "attempts": 0, "error": ""}
    session.execute(update(work_items).where(*given_up).values(**fresh, available_at=database_now(session)))


def discard(session: Session, job: str, phase: str | None = None) -> int:
    """Remove all items of a job, or of one phase; claims on them become stale. Returns how many there were."""
    condition = work_items.c.job == job
    if phase is not None:
        condition = and_(condition, work_items.c.phase == phase)
    return len(session.execute(sql_delete(work_items).where(condition).returning(work_items.c.item_id)).all())


def counts(session: Session, job: str, phase: str | None = None) -> QueueCounts:
    """Count the items of a job's phase (or of all its phases) by state."""
    statement = select(work_items.c.state, func.count()).where(work_items.c.job == job)
    if phase is not None:
        statement = statement.where(work_items.c.phase == phase)
    found = {state: int(number) for state, number in session.execute(statement.group_by(work_items.c.state))}
    return QueueCounts(found.get(QUEUED, 0), found.get(CLAIMED, 0), found.get(DONE, 0), found.get(FAILED, 0))


def results(session: Session, job: str, phase: str) -> list[dict[str, Any]]:
    """Return the results of the items that are done, in the order of their positions."""
    statement = select(work_items.c.result).where(_phase(job, phase), work_items.c.state == DONE)
    return [dict(found.result) for found in session.execute(statement.order_by(work_items.c.position))]


def failures(session: Session, job: str, phase: str) -> list[ItemFailure]:
    """Return the items that were given up, in the order of their positions."""
    columns = (work_items.c.position, work_items.c.payload, work_items.c.attempts, work_items.c.error)
    statement = select(*columns).where(_phase(job, phase), work_items.c.state == FAILED)
    return [ItemFailure(*found) for found in session.execute(statement.order_by(work_items.c.position))]


def _oldest(session: Session, state: str, moment: datetime, filters: Sequence[ColumnElement[bool]]) -> Row[Any] | None:
    """Return the oldest available item of a state, locked; those that another transaction holds are passed over.

    One state a statement lets the index give the order: the cost does not grow with the queue.
    """
    statement = select(work_items).where(work_items.c.state == state, work_items.c.available_at <= moment, *filters)
    oldest = statement.order_by(work_items.c.item_id).limit(1).with_for_update(skip_locked=True)
    return session.execute(oldest).one_or_none()


def _settle(session: Session, claim: Claim, **values: Any) -> None:
    statement = (
        update(work_items)
        .where(
            work_items.c.item_id == claim.item_id,
            work_items.c.job == claim.job,
            work_items.c.term == claim.term,
            work_items.c.owner == claim.owner,
            work_items.c.state == CLAIMED,
        )
        .values(**values)
        .returning(work_items.c.item_id)
    )
    if session.execute(statement).one_or_none() is None:
        raise Aborted(
            f"item {claim.index} of {claim.job!r} phase {claim.phase!r} is no longer held by {claim.owner!r}",
            reason="STALE_TERM",
            metadata={"job": claim.job, "phase": claim.phase, "index": str(claim.index), "term": str(claim.term)},
            action="drop the work: another replica has it, or the job is gone",
        )


def _filters(job_prefix: str, phases: Sequence[str]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if job_prefix:
        conditions.append(work_items.c.job.startswith(job_prefix, autoescape=True))
    if phases:
        conditions.append(work_items.c.phase.in_(list(phases)))
    return conditions


def _phase(job: str, phase: str) -> ColumnElement[bool]:
    return and_(work_items.c.job == job, work_items.c.phase == phase)
