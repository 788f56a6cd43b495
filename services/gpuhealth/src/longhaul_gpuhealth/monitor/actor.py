"""Carries decisions out: settles one node after another whenever something about it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace

from longhaul_core.cluster import Node
from longhaul_core.errors import Aborted, LonghaulError
from longhaul_core.ids import new_uid
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.adapters.batches import ChangeBatches
from longhaul_gpuhealth.adapters.discovery import Discovery
from longhaul_gpuhealth.adapters.marks import Marker, facts_of, foreign_marks
from longhaul_gpuhealth.adapters.records import NodeRecords, RecordChange, StoredNode, marked, unmarked
from longhaul_gpuhealth.adapters.shards import Fence
from longhaul_gpuhealth.domain.budget import Budget, Fleet
from longhaul_gpuhealth.domain.decision import Situation, decide
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.model import HealthState, NodeVerdict
from longhaul_gpuhealth.domain.record import NodeRecord, Occurrence, Repair, RepairStage
from longhaul_gpuhealth.domain.verbs import Decision, Policy
from longhaul_gpuhealth.monitor.book import NodeBook
from longhaul_gpuhealth.monitor.joins import Joins
from longhaul_gpuhealth.monitor.measures import Measures
from longhaul_gpuhealth.monitor.poller import Intake, SteadyTime
from longhaul_gpuhealth.monitor.repairs import Repairs

PARALLEL_NODES = 256
RETRY_SECONDS = 1.0
WAITING_RETRY_SECONDS = 5.0

log = get_logger(__name__)
Signature = tuple[object, ...]
NodeChange = Callable[[NodeRecord], NodeRecord]


class _ReleasedMeanwhileError(Exception):
    """The record was released by an operator since the engine last heard of it."""


@dataclass(slots=True)
class Actor:
    """Settles the nodes of this replica: verdict -> decision -> record -> marks; one task a node, many in parallel.

    What fails (database, cluster) is tried again; every step can be repeated, so a crash between any two is harmless.
    """

    records: NodeRecords
    batches: ChangeBatches
    marker: Marker
    engine: Engine
    intake: Intake
    book: NodeBook
    discovery: Discovery
    time: SteadyTime
    policy: Policy
    measures: Measures
    fence: Callable[[str], Fence | None]
    repairs: Repairs
    joins: Joins
    known: dict[str, StoredNode] = field(default_factory=dict)
    _released: dict[str, float | None] = field(default_factory=dict)
    _settled: dict[str, Signature] = field(default_factory=dict)
    _due: dict[str, float] = field(default_factory=dict)
    _dirty: dict[str, None] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: set[str] = field(default_factory=set)

    def owns(self, node: str) -> bool:
        """Whether this replica looks after a node."""
        return self.fence(node) is not None

    def adopt(self, stored: StoredNode) -> None:
        """Take over what is known of a node when this replica begins to look after it."""
        record = stored.record
        was_heard = record.exporter_url and record.state is not HealthState.UNKNOWN
        heard = self.time.now() if was_heard else None
        self.engine.restore(record.node, record.memory, record.findings, heard)
        self.known[record.node] = stored
        self._released[record.node] = record.released_at

    def drop(self, nodes: Collection[str]) -> None:
        """Another replica looks after the nodes from now on."""
        self.engine.forget(nodes)
        for node in nodes:
            self.joins.forget(node)
            for kept in (self.known, self._released, self._settled, self._due, self._dirty):
                kept.pop(node, None)

    def touch(self, node: str) -> None:
        """Something about the node changed."""
        self._dirty[node] = None
        self._work.set()

    def look(self, node: str) -> None:
        """The cluster shows the node otherwise than before."""
        if not self.owns(node):
            return
        seen = self.book.nodes.get(node)
        if seen is not None:
            self.engine.observe_marks(node, *foreign_marks(seen), self.time.now())
            self.joins.join(node)
        self.touch(node)

    def scraped(self, node: str) -> None:
        """A scrape was tried: settle the node if the verdict is another one."""
        if not self.owns(node):
            return
        self.joins.join(node)
        if self._signature(self._verdict(node)) != self._settled.get(node):
            self.touch(node)

    def tick(self) -> None:
        """Touch nodes whose time has come: retries, ends of overrides and of recovery."""
        now = self.time.now()
        for node, due in list(self._due.items()):
            if now >= due:
                del self._due[node]
                self.touch(node)

    async def run(self) -> None:
        """Settle touched nodes without end."""
        async with asyncio.TaskGroup() as tasks:
            slots = asyncio.Semaphore(PARALLEL_NODES)
            while True:
                await self._work.wait()
                self._work.clear()
                for node in [node for node in self._dirty if node not in self._busy]:
                    del self._dirty[node]
                    self._busy.add(node)
                    await slots.acquire()
                    tasks.create_task(self._settle_one(node, slots), name=f"settle {node}")

    async def _settle_one(self, node: str, slots: asyncio.Semaphore) -> None:
        try:
            if not self.owns(node):
                return
            if node in self.book.nodes:
                await self._settle(node)
            elif node in self.known:
                await self._forget(node)
        except LonghaulError as error:
            self._retry(node, error)
        finally:
            self._busy.discard(node)
            slots.release()
            if node in self._dirty:
                self._work.set()

    def _retry(self, node: str, error: LonghaulError) -> None:
        log.error("node not settled", node=node, reason=error.reason, error=str(error))
        self.measures.actions.labels("settle", error.reason).inc()
        self._due[node] = self.time.now() + RETRY_SECONDS

    async def _settle(self, node: str) -> None:
        before = self.known[node].record.repair if node in self.known else None
        while True:
            verdict = self._verdict(node)
            try:
                stored = await self._decide(node, verdict)
            except _ReleasedMeanwhileError:
                stored = await self.records.get(node)
            self.known[node] = stored
            if stored.record.released_at == self._released.get(node):
                break
            self.engine.release(node)
            self._released[node] = stored.record.released_at
        self._settled[node] = self._signature(verdict)
        repair = stored.record.repair
        stored = await self._act(stored, verdict)
        self.known[node] = stored
        if (repair and repair.stage) != (before and before.stage):
            self.touch(node)  # the next stage may be done with at once
        self._schedule(stored.record)

    async def _decide(self, node: str, verdict: NodeVerdict) -> StoredNode:
        seen = self.book.nodes[node]
        facts = facts_of(
            seen,
            idle=self.book.idle(node),
            pool_label=self.book.pool_label,
            exporter_url=self.discovery.url_of(seen),
        )
        released = self._released.get(node)
        fleet = Fleet(len(self.book.nodes), facts.pool, self.book.pool_size(facts.pool))
        situation = Situation(verdict, facts, fleet, self.time.now(), new_uid())
        memory = tuple(self.engine.snapshot(node))
        told: list[tuple[str, str]] = []

        def choose(record: NodeRecord, budget: Budget) -> Decision:
            if record.released_at != released:
                raise _ReleasedMeanwhileError
            decision = decide(record, budget, situation, self.policy)
            told[:] = [(one.type, one.cause) for one in decision.occurrences]
            return replace(decision, record=replace(decision.record, memory=memory))

        stored = await self.batches.change(RecordChange(node, choose, self._fence(node), missing_ok=True))
        for type_, cause in told:
            self.measures.events.labels(type_, cause).inc()
            if type_ == "STATE_CHANGED":
                self.measures.verdicts.labels(stored.record.state).inc()
        return stored

    async def _act(self, stored: StoredNode, verdict: NodeVerdict) -> StoredNode:
        """Bring the cluster's marks to what the record says, note it there, and look again at what came meanwhile."""
        record = stored.record
        node = record.node
        if record.quarantine is not None and not record.quarantine.marked:
            session = record.quarantine.session
            self.book.put(await self._heard(stored, self.marker.mark(node, record.quarantine)))
            stored = await self._note(node, lambda current: marked(current, session))
            self._measure("quarantine", verdict)
            log.warning("node quarantined", node=node, cause=record.quarantine.cause, session=session)
            self.touch(node)
        elif record.releasing:
            session = record.releasing
            self.book.put(await self._heard(stored, self.marker.unmark(node, session)))
            stored = await self._note(node, lambda current: unmarked(current, session))
            self._measure("release", None)
            log.info("node released", node=node, session=session)
            self.touch(node)
        elif record.repair is not None and record.repair.stage is RepairStage.REPAIRING:
            stored = await self._repair(stored, record.repair)
        return stored

    async def _heard(self, stored: StoredNode, marking: Awaitable[Node]) -> Node:
        """What the cluster answers to marks; a refusal is told once, for users to see, and goes on as an error."""
        try:
            return await marking
        except LonghaulError as error:
            text, told = f"{error.reason}: {error}", Occurrence("MARKS_REFUSED", error.reason, str(error))
            self.measures.actions.labels("mark", error.reason).inc()
            if stored.record.trouble != text:

                def note(record: NodeRecord, budget: Budget) -> Decision:
                    return Decision(replace(record, trouble=text), budget, (told,))

                node = stored.record.node
                self.known[node] = await self.batches.change(RecordChange(node, note, self._fence(node)))
            raise

    async def _repair(self, stored: StoredNode, repair: Repair) -> StoredNode:
        """Call the hook, or look how far it is."""
        node = stored.record.node
        step = await self.repairs.advance(stored.record, repair)
        if step.again_seconds is not None:
            self._due[node] = self.time.now() + step.again_seconds
        else:
            self.touch(node)
        if step.change is None:
            return stored
        return await self.batches.change(RecordChange(node, step.change, self._fence(node)))

    async def _note(self, node: str, change: NodeChange) -> StoredNode:
        def note(record: NodeRecord, budget: Budget) -> Decision:
            return Decision(change(record), budget)

        return await self.batches.change(RecordChange(node, note, self._fence(node)))

    def _fence(self, node: str) -> Fence:
        fence = self.fence(node)
        if fence is None:
            raise Aborted(f"node {node} is another replica's now", reason="STALE_TERM", metadata={"node": node})
        return fence

    def _measure(self, action: str, verdict: NodeVerdict | None) -> None:
        self.measures.actions.labels(action, "ok").inc()
        causes = [] if verdict is None else [one.first_time for one in verdict.findings if one.takes_node_out]
        if causes:
            self.measures.latency.observe(max(0.0, self.time.now() - min(causes)))

    async def _forget(self, node: str) -> None:
        await self.records.forget(node, fence=self._fence(node))
        self.drop({node})

    def _schedule(self, record: NodeRecord) -> None:
        """When to look again although nothing changes."""
        now = self.time.now()
        times = [record.recovering_until, record.override.expires_at if record.override else None]
        due = [time for time in times if time is not None and time > now]
        if record.waiting or record.repair is not None:
            due.append(now + WAITING_RETRY_SECONDS)
        if due:
            self._due[record.node] = min(*due, self._due.get(record.node, due[0]))

    def _verdict(self, node: str) -> NodeVerdict:
        return self.engine.verdict(node, self.time.now(), self.intake.errors.get(node, ""))

    @staticmethod
    def _signature(verdict: NodeVerdict) -> Signature:
        """What of a verdict is worth a decision."""
        findings = frozenset((one.rule, one.gpu, one.severity, one.shadow) for one in verdict.findings)
        gpus = tuple((gpu.index, gpu.uuid, gpu.state, gpu.job) for gpu in verdict.gpus)
        return verdict.state, verdict.settling, findings, gpus
