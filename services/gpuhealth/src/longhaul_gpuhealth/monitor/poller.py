"""Scrape loops, one a node, spread over the interval; no slow exporter delays another."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from longhaul_core.clock import Clock
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.adapters.prometheus import PrometheusSource
from longhaul_gpuhealth.adapters.scraper import ScrapeError, Scraper
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.exposition import PageReader
from longhaul_gpuhealth.domain.reading import Attribution, Reading
from longhaul_gpuhealth.monitor.measures import Measures

FIRST_LOOK_SHARE = 0.2
"""Of the interval, over which the first scrapes of a node are spread."""

log = get_logger(__name__)


class SteadyTime:
    """Seconds since the epoch that never go back: the wall clock at the start, the monotonic clock from then on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.now().timestamp() - clock.monotonic()

    def now(self) -> float:
        """The time of a sample that arrives now."""
        return self._clock.monotonic() + self._offset


@dataclass(slots=True)
class Intake:
    """Takes what was read of nodes, or why nothing was, to the engine; calls `scraped` after each attempt."""

    engine: Engine
    time: SteadyTime
    measures: Measures
    scraped: Callable[[str], None]
    errors: dict[str, str] = field(default_factory=dict)
    _unattributed: dict[str, int] = field(default_factory=dict)

    def take(self, reading: Reading) -> None:
        """A node was read."""
        node = reading.node
        self.measures.scrapes.labels("ok").inc()
        if self.errors.pop(node, None) is not None:
            log.info("scrape succeeds again", node=node)
        if self._unattributed.get(node, 0) != reading.unattributed:
            self._unattributed[node] = reading.unattributed
            self.measures.unattributed.labels(node).set(reading.unattributed)
        if not self.engine.observe(reading):
            self.measures.ignored.inc()
        self.scraped(node)

    def fail(self, node: str, error: ScrapeError) -> None:
        """A node could not be read."""
        self.measures.scrapes.labels(error.fault).inc()
        if self.errors.get(node) != str(error):
            log.warning("scrape failed", node=node, fault=error.fault, error=str(error))
        self.errors[node] = str(error)
        self.scraped(node)

    def forget(self, node: str) -> None:
        """The node is not read here any more."""
        self.errors.pop(node, None)
        if self._unattributed.pop(node, 0):
            self.measures.unattributed.remove(node)


class Poller(Protocol):
    """Reads nodes again and again."""

    def follow(self, urls: Mapping[str, str]) -> None:
        """Read exactly these nodes at these URLs from now on."""
        ...

    async def close(self) -> None:
        """End all loops."""
        ...


@dataclass(slots=True)
class _Exporter:
    url: str
    reader: PageReader
    attribution: Attribution


@dataclass(slots=True)
class ScrapePoller:
    """Keeps one scrape loop for each node with exporters. Of several exporters of a node the first must answer."""

    scraper: Scraper
    intake: Intake
    clock: Clock
    interval_seconds: float
    _loops: dict[str, tuple[str, asyncio.Task[None]]] = field(default_factory=dict)

    def follow(self, urls: Mapping[str, str]) -> None:
        """See `Poller`."""
        for node, (url, loop) in list(self._loops.items()):
            if loop.done():
                loop.result()  # a loop ends only by a defect, which must not pass unseen
            if urls.get(node) != url:
                loop.cancel()
                del self._loops[node]
                self.intake.forget(node)
        for node, url in urls.items():
            if node not in self._loops:
                self._loops[node] = (url, asyncio.create_task(self._poll(node, url), name=f"scrape {node}"))

    async def close(self) -> None:
        """See `Poller`."""
        loops = [loop for _, loop in self._loops.values()]
        self._loops.clear()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def _poll(self, node: str, urls: str) -> None:
        exporters = self._exporters(urls)
        phase = self._phase(node)
        # The first look comes soon, so that a node that was taken over is not left alone; then each keeps its phase.
        due = self.clock.monotonic() + phase
        await self.clock.sleep(phase * FIRST_LOOK_SHARE)
        while True:
            if exporters[0].attribution.wanted is not self.intake.engine.rules.wanted:
                exporters = self._exporters(urls)
            await self._read(node, exporters)
            due = max(due + self.interval_seconds, self.clock.monotonic())
            await self.clock.sleep(due - self.clock.monotonic())

    def _exporters(self, urls: str) -> list[_Exporter]:
        wanted = self.intake.engine.rules.wanted
        by_pci: dict[str, int] = {}
        return [_Exporter(url, PageReader(), Attribution(wanted, by_pci)) for url in urls.split()]

    async def _read(self, node: str, exporters: list[_Exporter]) -> None:
        started = self.clock.monotonic()
        try:
            reading = await self._scrape(node, exporters[0])
        except ScrapeError as error:
            self.intake.fail(node, error)
            return
        for exporter in exporters[1:]:
            try:
                reading = reading.with_other(await self._scrape(node, exporter))
            except ScrapeError as error:
                self.intake.measures.scrapes.labels(f"second_{error.fault}").inc()
                log.debug("second exporter not read", node=node, url=exporter.url, error=str(error))
        self.intake.measures.scrape_seconds.observe(self.clock.monotonic() - started)
        self.intake.take(reading)

    async def _scrape(self, node: str, exporter: _Exporter) -> Reading:
        page = await self.scraper.scrape(exporter.url, exporter.reader)
        return exporter.attribution.attribute(node, self.intake.time.now(), page)

    def _phase(self, node: str) -> float:
        """Where in the interval a node's scrapes lie; the same after a restart."""
        return zlib.crc32(b"phase/" + node.encode()) / 2**32 * self.interval_seconds


@dataclass(slots=True)
class PrometheusPoller:
    """Reads all nodes by one query to a Prometheus an interval."""

    source: PrometheusSource
    intake: Intake
    clock: Clock
    interval_seconds: float
    _nodes: frozenset[str] = frozenset()
    _attributions: dict[str, Attribution] = field(default_factory=dict)
    _loop: asyncio.Task[None] | None = None

    def follow(self, urls: Mapping[str, str]) -> None:
        """See `Poller`; the URLs do not matter."""
        for node in self._nodes - urls.keys():
            self.intake.forget(node)
            self._attributions.pop(node, None)
        self._nodes = frozenset(urls)
        if self._loop is not None and self._loop.done():
            self._loop.result()  # it ends only by a defect, which must not pass unseen
        if self._loop is None:
            self._loop = asyncio.create_task(self._poll(), name="query Prometheus")

    async def close(self) -> None:
        """See `Poller`."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            due = self.clock.monotonic() + self.interval_seconds
            await self._read()
            await self.clock.sleep(max(0.0, due - self.clock.monotonic()))

    async def _read(self) -> None:
        wanted = self.intake.engine.rules.wanted
        started = self.clock.monotonic()
        try:
            pages = await self.source.pages(wanted)
        except ScrapeError as error:
            for node in self._nodes:
                self.intake.fail(node, error)
            return
        now = self.intake.time.now()
        self.intake.measures.scrape_seconds.observe(self.clock.monotonic() - started)
        for node in self._nodes & pages.keys():
            attribution = self._attributions.get(node)
            if attribution is None or attribution.wanted is not wanted:
                attribution = self._attributions[node] = Attribution(wanted)
            self.intake.take(attribution.attribute(node, now, pages[node]))
