"""Leads when it holds the lease: ties cluster, scrapes, engine and decisions together and survives their failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster
from longhaul_core.db import Database
from longhaul_core.db.leases import Lease, acquire, release, renew
from longhaul_core.errors import LonghaulError
from longhaul_core.ids import new_uid
from longhaul_core.logging import get_logger
from longhaul_core.rpc.watch import watch

from longhaul_gpuhealth.adapters.marks import Marker
from longhaul_gpuhealth.adapters.records import LEASE_NAME, NO_PROJECT, NODE_KIND, NodeRecords, StoredNode, record_of
from longhaul_gpuhealth.adapters.rules_source import RulesSource
from longhaul_gpuhealth.adapters.scraper import Scraper, open_session
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.model import NodeVerdict
from longhaul_gpuhealth.monitor.actor import Actor
from longhaul_gpuhealth.monitor.book import NodeBook
from longhaul_gpuhealth.monitor.measures import Measures
from longhaul_gpuhealth.monitor.poller import Poller, SteadyTime
from longhaul_gpuhealth.settings import GpuHealthSettings

TICK_SECONDS = 0.5
RETRY_SECONDS = 1.0

log = get_logger(__name__)


@dataclass(slots=True)
class Monitor:
    """The service's loop."""

    settings: GpuHealthSettings
    db: Database
    clock: Clock
    cluster: Cluster
    records: NodeRecords
    rules: RulesSource
    measures: Measures
    address: str
    _holder: str = field(default_factory=new_uid)
    _engine: Engine | None = None
    _poller: Poller | None = None
    _time: SteadyTime | None = None

    def live_verdict(self, node: str) -> NodeVerdict | None:
        """The newest verdict, with its values; None on a replica that does not lead."""
        if self._engine is None or self._time is None or self._poller is None:
            return None
        return self._engine.verdict(node, self._time.now(), self._poller.errors.get(node, ""))

    async def run(self, stop: asyncio.Event) -> None:
        """Lead whenever possible until `stop`; what fails is begun anew from what is stored."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                leading = asyncio.create_task(self._try_to_lead(), name="lead")
                await asyncio.wait([leading, stopped], return_when=asyncio.FIRST_COMPLETED)
                leading.cancel()
                await asyncio.wait([leading])
                error = None if leading.cancelled() else leading.exception()
                if not stop.is_set():
                    _report(error)
                    await asyncio.wait([stopped], timeout=RETRY_SECONDS)
        finally:
            stopped.cancel()

    async def _try_to_lead(self) -> None:
        lease = await self.db.run(
            lambda session: acquire(session, LEASE_NAME, self._holder, self.address, self.settings.lease_seconds)
        )
        if lease is None:
            return
        try:
            await self._lead(lease)
        finally:
            self._engine = self._poller = self._time = None
            self.measures.leading.set(0)
            self.measures.show_nodes({})
            await asyncio.shield(self.db.run(lambda session: release(session, lease)))

    async def _lead(self, lease: Lease) -> None:
        stored = await self.records.all()
        async with self._assembled(lease) as (actor, book, poller):
            for one in stored.values():
                actor.adopt(one)
            self.measures.leading.set(1)
            log.info("monitor leads", term=lease.term, nodes=len(stored), rules=self.rules.rules.version)
            newest = max((one.row.revision for one in stored.values()), default=0)
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._renew(lease), name="lease")
                loops.create_task(book.follow(), name="nodes")
                loops.create_task(book.relist(), name="relist")
                loops.create_task(self._follow_records(actor, newest), name="records")
                loops.create_task(actor.run(), name="actor")
                loops.create_task(self._tick(actor, book, poller), name="tick")

    @asynccontextmanager
    async def _assembled(self, lease: Lease) -> AsyncIterator[tuple[Actor, NodeBook, Poller]]:
        """The parts of one term."""
        settings = self.settings
        time = SteadyTime(self.clock)
        engine = Engine(self.rules.rules, settings.silence_seconds)
        async with open_session() as session:
            scraper = Scraper(session, settings.scrape_timeout_seconds, settings.scrape_maximum_bytes)
            poller = Poller(
                scraper=scraper,
                engine=engine,
                time=time,
                clock=self.clock,
                interval_seconds=settings.scrape_interval_seconds,
                measures=self.measures,
                scraped=lambda node: actor.scraped(node),  # noqa: PLW0108 (the actor comes below)
            )
            book = NodeBook(self.cluster, self.clock, lambda node: actor.touch(node))  # noqa: PLW0108
            actor = Actor(
                records=self.records,
                marker=Marker(self.cluster, self.clock),
                engine=engine,
                poller=poller,
                book=book,
                time=time,
                policy=settings.policy,
                measures=self.measures,
                term=lease.term,
            )
            self._engine, self._poller, self._time = engine, poller, time
            try:
                yield actor, book, poller
            finally:
                await poller.close()

    async def _renew(self, lease: Lease) -> None:
        """Hold the lease; an error ends the term at once, well before the lease does."""
        ttl = self.settings.lease_seconds
        while True:
            await self.clock.sleep(ttl / 3)
            await self.db.run(lambda session: renew(session, lease, ttl))

    async def _follow_records(self, actor: Actor, newest: int) -> None:
        """Notice what operators and other replicas wrote."""
        async for row in watch(self.db, NODE_KIND, NO_PROJECT, after_revision=newest):
            if row.deleted:
                continue
            known = actor.known.get(row.id)
            if known is None or known.row.revision < row.revision:
                actor.known[row.id] = StoredNode(record_of(row), row)
                actor.touch(row.id)

    async def _tick(self, actor: Actor, book: NodeBook, poller: Poller) -> None:
        """What time alone brings."""
        await book.listed.wait()
        for node in actor.known.keys() - book.nodes.keys():
            actor.touch(node)
        while True:
            if self.rules.reload():
                actor.engine.use_rules(self.rules.rules)
            poller.follow({node.name: node.exporter_url for node in book.nodes.values() if node.exporter_url})
            actor.tick()
            await self._measure(actor)
            await self.clock.sleep(TICK_SECONDS)

    async def _measure(self, actor: Actor) -> None:
        now = actor.time.now()
        records = [stored.record for stored in actor.known.values()]
        self.measures.show_nodes({record.node: record.state for record in records})
        heard = [actor.engine.heard(record.node) for record in records if record.exporter_url]
        self.measures.oldest_scrape.set(max((now - time for time in heard if time is not None), default=0.0))
        self.measures.waiting.set(sum(bool(record.waiting) for record in records))
        self.measures.rules_load_failed.set(bool(self.rules.load_error))
        if any(record.waiting for record in records):
            budget = await self.records.budget()
            self.measures.breaker_open.set(budget.breaker_opened_at is not None)


def _report(error: BaseException | None) -> None:
    """Log why a term ended; a defect is raised, so that the process ends loudly."""
    if error is None:
        return
    failures = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    for failure in failures:
        if not isinstance(failure, LonghaulError):
            raise error
        log.warning("monitor term ended", reason=failure.reason, error=str(failure))
