"""Scrape loops, one a node, spread over the interval; no slow exporter delays another."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from longhaul_core.clock import Clock
from longhaul_core.logging import get_logger

from longhaul_gpuhealth.adapters.scraper import ScrapeError, Scraper
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.exposition import PageReader
from longhaul_gpuhealth.domain.reading import Attribution
from longhaul_gpuhealth.monitor.measures import Measures

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
class Poller:
    """Keeps one scrape loop for each node with an exporter and feeds the engine; calls `scraped` after each attempt."""

    scraper: Scraper
    engine: Engine
    time: SteadyTime
    clock: Clock
    interval_seconds: float
    measures: Measures
    scraped: Callable[[str], None]
    errors: dict[str, str] = field(default_factory=dict)
    _loops: dict[str, tuple[str, asyncio.Task[None]]] = field(default_factory=dict)

    def follow(self, urls: Mapping[str, str]) -> None:
        """Scrape exactly these nodes at these URLs from now on."""
        for node, (url, loop) in list(self._loops.items()):
            if loop.done():
                loop.result()  # a loop ends only by a defect, which must not pass unseen
            if urls.get(node) != url:
                loop.cancel()
                del self._loops[node]
                self.errors.pop(node, None)
        for node, url in urls.items():
            if node not in self._loops:
                self._loops[node] = (url, asyncio.create_task(self._poll(node, url), name=f"scrape {node}"))

    async def close(self) -> None:
        """End all loops."""
        loops = [loop for _, loop in self._loops.values()]
        self._loops.clear()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def _poll(self, node: str, url: str) -> None:
        reader = PageReader()
        attribution = Attribution(self.engine.rules.wanted)
        await self.clock.sleep(self._phase(node))
        due = self.clock.monotonic()
        while True:
            if attribution.wanted is not self.engine.rules.wanted:
                attribution = Attribution(self.engine.rules.wanted)
            await self._scrape(node, url, reader, attribution)
            self.scraped(node)
            due = max(due + self.interval_seconds, self.clock.monotonic())
            await self.clock.sleep(due - self.clock.monotonic())

    async def _scrape(self, node: str, url: str, reader: PageReader, attribution: Attribution) -> None:
        started = self.clock.monotonic()
        try:
            page = await self.scraper.scrape(url, reader)
        except ScrapeError as error:
            self.measures.scrapes.labels(error.fault).inc()
            if self.errors.get(node) != str(error):
                log.warning("scrape failed", node=node, url=url, fault=error.fault, error=str(error))
            self.errors[node] = str(error)
            return
        self.measures.scrapes.labels("ok").inc()
        self.measures.scrape_seconds.observe(self.clock.monotonic() - started)
        if self.errors.pop(node, None) is not None:
            log.info("scrape succeeds again", node=node)
        reading = attribution.attribute(node, self.time.now(), page)
        if reading.unattributed:
            self.measures.unattributed.labels(node).set(reading.unattributed)
        if not self.engine.observe(reading):
            self.measures.ignored.inc()

    def _phase(self, node: str) -> float:
        """Where in the interval a node's scrapes lie; the same after a restart."""
        return zlib.crc32(node.encode()) / 2**32 * self.interval_seconds
