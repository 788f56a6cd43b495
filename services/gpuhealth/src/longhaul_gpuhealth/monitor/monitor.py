"""Ties cluster, scrapes, engine and decisions together for the nodes of this replica, and survives their failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster
from longhaul_core.db import Database
from longhaul_core.errors import LonghaulError
from longhaul_core.ids import new_uid
from longhaul_core.logging import get_logger
from longhaul_core.rpc.watch import watch

from longhaul_gpuhealth.adapters.batches import ChangeBatches
from longhaul_gpuhealth.adapters.hooks import Hook
from longhaul_gpuhealth.adapters.marks import Marker
from longhaul_gpuhealth.adapters.peer_exchange import PeerExchange
from longhaul_gpuhealth.adapters.prometheus import PrometheusSource
from longhaul_gpuhealth.adapters.records import NO_PROJECT, NODE_KIND, NodeRecords, StoredNode, record_of
from longhaul_gpuhealth.adapters.rules_source import RulesSource
from longhaul_gpuhealth.adapters.scraper import Scraper, open_session
from longhaul_gpuhealth.adapters.shards import ShardLeases
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.model import NodeVerdict, Remedy
from longhaul_gpuhealth.domain.sharding import shard_of
from longhaul_gpuhealth.monitor.actor import Actor
from longhaul_gpuhealth.monitor.book import NodeBook
from longhaul_gpuhealth.monitor.joins import Joins
from longhaul_gpuhealth.monitor.measures import Measures
from longhaul_gpuhealth.monitor.poller import Intake, Poller, PrometheusPoller, ScrapePoller, SteadyTime
from longhaul_gpuhealth.monitor.repairs import Repairs
from longhaul_gpuhealth.settings import GpuHealthSettings

TICK_SECONDS = 0.5
RETRY_SECONDS = 1.0
PEERS_SECONDS = 5.0
"""Between exchanges of peers; twice the interval of scrapes where that is less."""

log = get_logger(__name__)


@dataclass(slots=True)
class _Parts:
    """What works together between two failures."""

    engine: Engine
    time: SteadyTime
    intake: Intake
    poller: Poller
    book: NodeBook
    actor: Actor
    leases: ShardLeases
    synced_at: float


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
    hooks: Mapping[Remedy, Hook] = field(default_factory=dict)
    _parts: _Parts | None = field(default=None)

    def live_verdict(self, node: str) -> NodeVerdict | None:
        """The newest verdict, with its values; None on a replica that does not look after the node."""
        parts = self._parts
        if parts is None or not parts.actor.owns(node):
            return None
        return parts.engine.verdict(node, parts.time.now(), parts.intake.errors.get(node, ""))

    def live_verdicts(self) -> list[NodeVerdict]:
        """The newest verdicts of all nodes that this replica looks after."""
        parts = self._parts
        return [] if parts is None else [one for node in parts.actor.known if (one := self.live_verdict(node))]

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; what fails is begun anew from what is stored."""
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                working = asyncio.create_task(self._work(), name="monitor")
                try:
                    await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    working.cancel()
                    await asyncio.wait([working])
                error = None if working.cancelled() else working.exception()
                if not stop.is_set():
                    _report(error)
                    await asyncio.wait([stopped], timeout=RETRY_SECONDS)
        finally:
            stopped.cancel()

    async def _work(self) -> None:
        newest = max((stored.row.revision for stored in (await self.records.all()).values()), default=0)
        async with self._assembled() as parts:
            self._parts = parts
            try:
                async with asyncio.TaskGroup() as loops:
                    loops.create_task(parts.book.follow(), name="nodes")
                    loops.create_task(parts.book.relist(), name="relist")
                    await parts.book.listed.wait()
                    loops.create_task(self._hold_shards(parts), name="shards")
                    loops.create_task(self._follow_records(parts.actor, newest), name="records")
                    loops.create_task(parts.actor.run(), name="actor")
                    loops.create_task(self._tick(parts), name="tick")
                    loops.create_task(self._exchange_peers(parts), name="peers")
            finally:
                self._parts = None
                self.measures.shards.set(0)
                self.measures.show_nodes({})
                await asyncio.shield(parts.leases.close())

    @asynccontextmanager
    async def _assembled(self) -> AsyncIterator[_Parts]:
        settings, time = self.settings, SteadyTime(self.clock)
        engine = Engine(
            self.rules.rules,
            settings.silence_seconds,
            rules_settle_seconds=settings.round_seconds,
            driver_settle_seconds=settings.driver_settle_seconds,
        )
        leases = ShardLeases(self.db, new_uid(), self.address, settings.lease_ttl_seconds, settings.shards)
        discovery = settings.open_discovery()
        discovery.reload()
        intake = Intake(engine, time, self.measures, lambda node: actor.scraped(node))  # noqa: PLW0108 (comes below)
        book = NodeBook(
            self.cluster,
            self.clock,
            lambda node: actor.look(node),  # noqa: PLW0108 (comes below)
            discovery,
            settings.pool_label,
        )
        actor = Actor(
            records=self.records,
            batches=ChangeBatches(self.records),
            marker=Marker(self.cluster, self.clock),
            engine=engine,
            intake=intake,
            book=book,
            discovery=discovery,
            time=time,
            policy=settings.policy,
            measures=self.measures,
            fence=leases.fence,
            repairs=Repairs(self.hooks, settings.policy, self.measures, time, settings.repair_poll_seconds),
            joins=Joins(engine, book, self.measures),
        )
        async with self._polling(intake) as poller:
            yield _Parts(engine, time, intake, poller, book, actor, leases, self.clock.monotonic())

    @asynccontextmanager
    async def _polling(self, intake: Intake) -> AsyncIterator[Poller]:
        settings = self.settings
        async with open_session() as session:
            poller: Poller
            if settings.prometheus_url:
                source = PrometheusSource(
                    session,
                    settings.prometheus_url,
                    settings.prometheus_node_label,
                    settings.prometheus_timeout_seconds,
                )
                poller = PrometheusPoller(source, intake, self.clock, settings.scrape_interval_seconds)
            else:
                scraper = Scraper(session, settings.scrape_timeout_seconds, settings.scrape_maximum_bytes)
                poller = ScrapePoller(scraper, intake, self.clock, settings.scrape_interval_seconds)
            try:
                yield poller
            finally:
                await poller.close()

    async def _hold_shards(self, parts: _Parts) -> None:
        """Keep the leases; without the database nothing is held for longer than they last."""
        ttl = self.settings.lease_ttl_seconds
        while True:
            try:
                change = await parts.leases.sync()
            except LonghaulError as error:
                log.warning("shards not renewed", reason=error.reason, error=str(error))
                if self.clock.monotonic() - parts.synced_at > ttl:
                    self._drop(parts, parts.leases.forget())
            else:
                parts.synced_at = self.clock.monotonic()
                self._drop(parts, change.lost | change.surplus)
                if change.surplus:
                    await parts.leases.give_back(change.surplus)
                if change.gained:
                    await self._adopt(parts, change.gained)
                self.measures.shards.set(len(parts.leases.owned))
            await self.clock.sleep(ttl / 3)

    async def _adopt(self, parts: _Parts, shards: frozenset[int]) -> None:
        stored = await self.records.all()
        mine = {node: one for node, one in stored.items() if shard_of(node, self.settings.shards) in shards}
        for one in mine.values():
            parts.actor.adopt(one)
        self.measures.takeovers.inc(len(shards))
        log.info("shards taken", shards=sorted(shards), nodes=len(mine), rules=self.rules.rules.version)
        self._poll_own(parts)
        for node in mine.keys() | parts.book.nodes.keys():
            if shard_of(node, self.settings.shards) in shards:
                parts.actor.look(node)

    def _drop(self, parts: _Parts, shards: Iterable[int]) -> None:
        gone = set(shards)
        if not gone:
            return
        log.info("shards given up", shards=sorted(gone))
        parts.actor.drop({one for one in parts.actor.known if shard_of(one, self.settings.shards) in gone})
        self._poll_own(parts, without=gone)

    def _poll_own(self, parts: _Parts, without: Iterable[int] = ()) -> None:
        """Scrape the nodes of this replica and no others."""
        others = frozenset(without)
        urls = {}
        for node in parts.book.nodes.values():
            url = parts.book.discovery.url_of(node) or (node.name if self.settings.prometheus_url else "")
            if url and parts.actor.owns(node.name) and shard_of(node.name, self.settings.shards) not in others:
                urls[node.name] = url
        parts.poller.follow(urls)

    async def _follow_records(self, actor: Actor, newest: int) -> None:
        """Notice what operators and other replicas wrote."""
        async for row in watch(self.db, NODE_KIND, NO_PROJECT, after_revision=newest):
            if row.deleted or not actor.owns(row.id):
                continue
            known = actor.known.get(row.id)
            if known is None or known.row.revision < row.revision:
                actor.known[row.id] = StoredNode(record_of(row), row)
                actor.touch(row.id)

    async def _tick(self, parts: _Parts) -> None:
        """What time alone brings."""
        actor = parts.actor
        while True:
            if self.rules.reload():
                parts.engine.use_rules(self.rules.rules, parts.time.now())
            parts.book.discovery.reload()
            for node in actor.known.keys() - parts.book.nodes.keys():
                actor.touch(node)
            self._poll_own(parts)
            actor.tick()
            await self._measure(parts)
            await self.clock.sleep(TICK_SECONDS)

    async def _exchange_peers(self, parts: _Parts) -> None:
        """Where there are several replicas, compare GPUs with those that the others watch too."""
        exchange = PeerExchange(self.db, self.clock, parts.leases.holder)
        interval = min(PEERS_SECONDS, 2 * self.settings.scrape_interval_seconds)
        alone = True
        while True:
            await self.clock.sleep(interval)
            try:
                if parts.leases.replicas > 1:
                    now, alone = parts.time.now(), False
                    for replica, summary in (await exchange.swap(parts.engine.peer_summary(now))).items():
                        parts.engine.hear_peers(replica, summary, now)
                elif not alone:
                    await exchange.leave()
                    alone = True
            except LonghaulError as error:
                log.warning("peers not exchanged", reason=error.reason, error=str(error))

    async def _measure(self, parts: _Parts) -> None:
        now = parts.time.now()
        parts.engine.forget_stale(now)
        records = [stored.record for stored in parts.actor.known.values()]
        self.measures.show_nodes({record.node: record.state for record in records})
        heard = [parts.engine.heard(record.node) for record in records if record.exporter_url]
        self.measures.oldest_scrape.set(max((now - time for time in heard if time is not None), default=0.0))
        self.measures.waiting.set(sum(bool(record.waiting) for record in records))
        self.measures.rules_load_failed.set(bool(self.rules.load_error))
        budget = await self.records.budget()
        self.measures.breaker_open.set(budget.breaker_opened_at is not None)


def _report(error: BaseException | None) -> None:
    """Log why the work ended; a defect is raised, so that the process ends loudly."""
    if error is None:
        return
    failures = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
    for failure in failures:
        if not isinstance(failure, LonghaulError):
            raise error
        log.warning("monitor begins anew", reason=failure.reason, error=str(failure))
