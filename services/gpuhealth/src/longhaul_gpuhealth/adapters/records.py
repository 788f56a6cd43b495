"""Node records and the budget in the database: one transaction a decision, events with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, EventRow, ResourceRow
from longhaul_core.db.events import append, list_events
from longhaul_core.db.leases import check_term
from longhaul_core.db.resources import Page, create, delete, find, get, list_all, list_page, update
from pydantic import TypeAdapter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from longhaul_gpuhealth.adapters.shards import Fence
from longhaul_gpuhealth.domain.budget import Budget
from longhaul_gpuhealth.domain.record import NodeRecord, Occurrence
from longhaul_gpuhealth.domain.verbs import Decision

NODE_KIND = "node-health"
BUDGET_KIND = "quarantine-budget"
NO_PROJECT = ""
_BUDGET_ID = "budget"
_RECORD = TypeAdapter(NodeRecord)
_BUDGET = TypeAdapter(Budget)

Change = Callable[[NodeRecord, Budget], Decision]


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A record with what the database says of it."""

    record: NodeRecord
    row: ResourceRow


@dataclass(frozen=True, slots=True)
class RecordChange:
    """A pure decision about one node."""

    node: str
    fn: Change
    fence: Fence | None = None
    missing_ok: bool = False


@dataclass(frozen=True, slots=True)
class NodeRecords:
    """Reads and changes records. A change with a fence fails once another replica looks after the node."""

    db: Database
    clock: Clock

    async def change(
        self, node: str, fn: Change, *, fence: Fence | None = None, missing_ok: bool = False
    ) -> StoredNode:
        """Apply a pure decision to a node's record and the budget, and write what differs.

        Raises:
            NotFound: The node has no record, unless `missing_ok`.
            Aborted: The term is over (STALE_TERM).
        """
        [outcome] = await self.change_many([RecordChange(node, fn, fence, missing_ok)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def change_many(self, changes: Sequence[RecordChange]) -> list[StoredNode | Exception]:
        """Apply changes in one transaction; one that is refused leaves no trace and does not hinder the others."""
        now = self.clock.now()

        def transact(session: Session) -> list[StoredNode | Exception]:
            first, budget_row = _load_budget(session)
            budget, outcomes = first, list[StoredNode | Exception]()
            for change in changes:
                try:
                    with session.begin_nested():
                        stored, budget = self._apply(session, change, budget, now)
                    outcomes.append(stored)
                except DBAPIError:
                    raise
                except Exception as error:  # refused by the domain or by the fence; told to whoever asked
                    outcomes.append(error)
            if budget != first:
                _save_budget(session, budget_row, budget, now)
            return outcomes

        return await self.db.run(transact)

    def _apply(
        self, session: Session, change: RecordChange, budget: Budget, now: datetime
    ) -> tuple[StoredNode, Budget]:
        node, fence = change.node, change.fence
        if fence is not None:
            check_term(session, fence.lease, fence.term)
        row = find(session, NODE_KIND, NO_PROJECT, node) if change.missing_ok else _get(session, node)
        record = record_of(row) if row else NodeRecord(node, state_since=now.timestamp())
        decision = change.fn(record, budget)
        if row is None:
            row = self._create(session, decision.record)
        elif decision.record.material != record.material or decision.occurrences:
            row = update(session, row, state=decision.record.state, status=_dump(decision.record), now=now)
        self._tell(session, node, decision.occurrences)
        return StoredNode(decision.record, row), decision.budget

    async def change_budget(self, fn: Callable[[Budget], Budget]) -> Budget:
        """Change the budget alone."""
        now = self.clock.now()

        def transact(session: Session) -> Budget:
            budget, row = _load_budget(session)
            changed = fn(budget)
            if changed != budget:
                _save_budget(session, row, changed, now)
            return changed

        return await self.db.run(transact)

    async def budget(self) -> Budget:
        """The budget as it stands."""
        return await self.db.read(lambda session: _load_budget(session)[0])

    async def get(self, node: str) -> StoredNode:
        """One node. Raises `NotFound`."""
        row = await self.db.read(lambda session: _get(session, node))
        return StoredNode(record_of(row), row)

    async def all(self) -> dict[str, StoredNode]:
        """All nodes by name."""
        rows = await self.db.read(lambda session: list_all(session, NODE_KIND, project=NO_PROJECT))
        return {row.id: StoredNode(record_of(row), row) for row in rows}

    async def page(self, size: int, token: str, states: Sequence[str]) -> Page:
        """A page of a List."""

        def fetch(session: Session) -> Page:
            return list_page(session, NODE_KIND, NO_PROJECT, page_size=size, page_token=token, states=states)

        return await self.db.read(fetch)

    async def forget(self, node: str, *, fence: Fence) -> None:
        """The node left the cluster."""
        now = self.clock.now()

        def transact(session: Session) -> None:
            check_term(session, fence.lease, fence.term)
            row = find(session, NODE_KIND, NO_PROJECT, node)
            if row is not None:
                delete(session, row, now=now)
            budget, budget_row = _load_budget(session)
            left = budget.withdraw(node)
            if left != budget:
                _save_budget(session, budget_row, left, now)

        await self.db.run(transact)

    async def events(self, node: str, limit: int) -> list[EventRow]:
        """What happened to a node, oldest first."""
        return await self.db.read(lambda session: list_events(session, NODE_KIND, NO_PROJECT, node, 0, limit))

    def _create(self, session: Session, record: NodeRecord) -> ResourceRow:
        row, _ = create(
            session,
            kind=NODE_KIND,
            project=NO_PROJECT,
            id=record.node,
            spec={},
            state=record.state,
            status=_dump(record),
            fingerprint=record.node,
            now=self.clock.now(),
        )
        return row

    def _tell(self, session: Session, node: str, occurrences: Sequence[Occurrence]) -> None:
        for told in occurrences:
            append(
                session,
                NODE_KIND,
                NO_PROJECT,
                node,
                type=told.type,
                cause=told.cause,
                message=told.message,
                data=told.data,
                now=self.clock.now(),
            )


def record_of(row: ResourceRow) -> NodeRecord:
    """The record in a row."""
    return _RECORD.validate_python(row.status)


def marked(record: NodeRecord, session: str) -> NodeRecord:
    """The cluster carries the marks of that session now."""
    if record.quarantine is None or record.quarantine.session != session:
        return record
    return replace(record, quarantine=replace(record.quarantine, marked=True), schedulable=False, trouble="")


def unmarked(record: NodeRecord, session: str) -> NodeRecord:
    """The marks of that session are off."""
    return replace(record, releasing="", trouble="") if record.releasing == session else record


def _get(session: Session, node: str) -> ResourceRow:
    return get(session, NODE_KIND, NO_PROJECT, node)


def _dump(record: NodeRecord) -> dict[str, Any]:
    dumped: dict[str, Any] = _RECORD.dump_python(record, mode="json")
    return dumped


def _load_budget(session: Session) -> tuple[Budget, ResourceRow | None]:
    row = find(session, BUDGET_KIND, NO_PROJECT, _BUDGET_ID)
    return (Budget() if row is None else _BUDGET.validate_python(row.status)), row


def _save_budget(session: Session, row: ResourceRow | None, budget: Budget, now: Any) -> None:
    status = _BUDGET.dump_python(budget, mode="json")
    if row is not None:
        update(session, row, status=status, now=now)
        return
    create(
        session,
        kind=BUDGET_KIND,
        project=NO_PROJECT,
        id=_BUDGET_ID,
        spec={},
        state="",
        status=status,
        fingerprint=_BUDGET_ID,
        now=now,
    )
