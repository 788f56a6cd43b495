"""What the service does by itself: retention after commits, and scrubbing of what was not read for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from longhaul_core.clock import Clock
from longhaul_core.db import Database, Page, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

from longhaul_checkpoint.adapters import catalogue
from longhaul_checkpoint.adapters.collector import Collector
from longhaul_checkpoint.adapters.inspection import Inspector
from longhaul_checkpoint.adapters.records import checkpoint_of

log = get_logger(__name__)

SCRUB_PAGE = 200


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait until the service stops, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


class Retention:
    """Applies the policies: soon to runs that changed, now and then to all, since leases and ages end by time."""

    def __init__(self, db: Database, clock: Clock, collector: Collector, full_round_seconds: float) -> None:
        self._db = db
        self._clock = clock
        self._collector = collector
        self._full_round_seconds = full_round_seconds
        self._seen = 0
        self._full_round_due = 0.0

    async def run(self, stop: asyncio.Event, interval_seconds: float) -> None:
        """Finish what a crash left marked, then go round after round; a store that fails is tried again."""
        step: Callable[[], Awaitable[None]] = self._collector.finish
        while not stop.is_set():
            try:
                await step()
            except LonghaulError as error:
                log.warning("retention round failed", reason=error.reason, error=error.message)
            await pause(stop, interval_seconds)
            step = self.round

    async def round(self) -> None:
        """Finish what is marked, then look at the runs that are due."""
        await self._collector.finish()
        revision, runs = await self._due()
        for project, run in runs:
            await self._collector.collect(project, run, dry_run=False)
        self._seen = revision

    async def _due(self) -> tuple[int, list[tuple[str, str]]]:
        now = self._clock.monotonic()
        if now < self._full_round_due:
            return await self._db.read(lambda session: catalogue.runs_changed(session, self._seen))
        self._full_round_due = now + self._full_round_seconds
        return await self._db.read(catalogue.all_runs)


class Scrubber:
    """Reads committed checkpoints again, in the order of the catalogue, each once in `scrub_seconds`."""

    def __init__(self, db: Database, clock: Clock, inspector: Inspector, scrub_seconds: float) -> None:
        self._db = db
        self._clock = clock
        self._inspector = inspector
        self._scrub_seconds = scrub_seconds

    async def run(self, stop: asyncio.Event, interval_seconds: float) -> None:
        """Scrub round after round."""
        while not stop.is_set():
            try:
                await self.round(stop)
            except LonghaulError as error:
                log.warning("scrub round failed", reason=error.reason, error=error.message)
            await pause(stop, interval_seconds)

    async def round(self, stop: asyncio.Event) -> int:
        """Read what is due; returns how many checkpoints were read."""
        token, read = "", 0
        while not stop.is_set():
            page = await self._db.read(_page_reader(token))
            for row in page.rows:
                if not stop.is_set() and self._is_due(row):
                    await self._inspector.inspect(row, full=True)
                    read += 1
            token = page.next_page_token
            if not token:
                break
        return read

    def _is_due(self, row: ResourceRow) -> bool:
        limit = self._clock.now() - timedelta(seconds=self._scrub_seconds)
        return checkpoint_of(row).committed.verify_time < limit


def _page_reader(token: str) -> Callable[[Session], Page]:
    return lambda session: catalogue.committed_page(session, page_size=SCRUB_PAGE, page_token=token)
