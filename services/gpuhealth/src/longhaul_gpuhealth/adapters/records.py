"""Node records and the budget in the database: one transaction a decision, events with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.db import Database, EventRow, ResourceRow
from longhaul_core.db.bulk import Saved, Told, find_many, save_many
from longhaul_core.db.events import list_events
from longhaul_core.db.leases import check_term
from longhaul_core.db.resources import Page, create, delete, find, get, list_all, list_page, update
from longhaul_core.db.revisions import lock_revisions
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted, NotFound
from pydantic import TypeAdapter

from longhaul_gpuhealth.adapters.shards import Fence
from longhaul_gpuhealth.domain.budget import Budget
from longhaul_gpuhealth.domain.record import NodeRecord
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
        """Apply changes in one transaction; one that is refused leaves no trace and does not hinder the others.

        It takes a few statements in all, however many changes there are: a burst of verdicts must not wait for itself.
        """
        now = self.clock.now()

        def transact(session: Session) -> list[StoredNode | Exception]:
            lock_revisions(session)
            budget, budget_row = _load_budget(session)
            rows = find_many(session, NODE_KIND, NO_PROJECT, [*dict.fromkeys(change.node for change in changes)])
            batch = _Batch(rows, budget, _stale(session, changes), now)
            outcomes = [batch.apply(change) for change in changes]
            written = save_many(session, NODE_KIND, NO_PROJECT, batch.saves(), batch.told, now)
            if batch.budget != budget:
                _save_budget(session, budget_row, batch.budget, now)
            return [one if isinstance(one, Exception) else batch.stored(one, written) for one in outcomes]

        return await self.db.run(transact)

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


@dataclass(slots=True)
class _Batch:
    """Decisions of one transaction, each made over what those before it left. `stale` holds terms that are over."""

    rows: Mapping[str, ResourceRow]
    budget: Budget
    stale: Mapping[Fence, Aborted]
    now: datetime
    told: list[Told] = field(default_factory=list)
    _records: dict[str, NodeRecord] = field(default_factory=dict)
    _changed: dict[str, None] = field(default_factory=dict)

    def apply(self, change: RecordChange) -> str | Exception:
        """Decide; the node, or why nothing came of it."""
        try:
            self._decide(change)
        except Exception as error:  # refused by the domain or by the fence; told to whoever asked
            return error
        return change.node

    def saves(self) -> list[Saved]:
        """What is to be written."""
        records = [(self._records[node], self.rows.get(node)) for node in self._changed]
        return [Saved(one.node, one.state, _dump(one), row, fingerprint=one.node) for one, row in records]

    def stored(self, node: str, written: Mapping[str, ResourceRow]) -> StoredNode:
        """A node as it is now."""
        return StoredNode(self._records[node], written[node] if node in written else self.rows[node])

    def _decide(self, change: RecordChange) -> None:
        node = change.node
        if change.fence is not None and change.fence in self.stale:
            raise self.stale[change.fence]
        known = self._records.get(node) or self._read(node)
        if known is None and not change.missing_ok:
            raise _no_node(node)
        record = known or NodeRecord(node, state_since=self.now.timestamp())
        decision = change.fn(record, self.budget)
        if known is None or decision.record.material != record.material or decision.occurrences:
            self._changed[node] = None
        self._records[node], self.budget = decision.record, decision.budget
        self.told.extend(Told(node, one.type, one.cause, one.message, one.data) for one in decision.occurrences)

    def _read(self, node: str) -> NodeRecord | None:
        row = self.rows.get(node)
        return None if row is None or row.deleted else record_of(row)


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


def _stale(session: Session, changes: Sequence[RecordChange]) -> dict[Fence, Aborted]:
    """The fences whose terms are over; the others hold until the transaction ends."""
    stale: dict[Fence, Aborted] = {}
    for fence in {change.fence for change in changes if change.fence is not None}:
        try:
            check_term(session, fence.lease, fence.term)
        except Aborted as error:
            stale[fence] = error
    return stale


def _no_node(node: str) -> NotFound:
    return NotFound(
        f"there is no {NODE_KIND} {node!r}", reason="NODE_HEALTH_NOT_FOUND", metadata={"kind": NODE_KIND, "id": node}
    )


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
