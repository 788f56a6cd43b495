"""What every end of an ingestion without a dataset has in common: it is counted, and its parts are removed."""

from __future__ import annotations

import asyncio

from longhaul_core.db import ResourceRow
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

from longhaul_ingest.adapters import repository
from longhaul_ingest.adapters.repository import JobKey, parts_of, status_of
from longhaul_ingest.adapters.world import World
from longhaul_ingest.domain.ingestion import Reason

log = get_logger(__name__)


class Endings:
    """Ends ingestions."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def fail(self, job: JobKey, reason: Reason) -> None:
        """End an ingestion for a reason, unless it has ended."""
        now = self._world.clock.now()
        await self.follow(await self._world.db.run(lambda session: repository.end(session, job, reason, now)))

    async def cancel(self, job: JobKey, parts: str) -> None:
        """End an ingestion whose cancel was asked for.

        Its parts go before it counts as ended, so that who sees the end finds nothing left, also where this process
        dies in between; and once more after it, for what another replica wrote meanwhile.
        """
        await self._remove(parts)
        now = self._world.clock.now()
        await self.follow(await self._world.db.run(lambda session: repository.finish_cancel(session, job, now)))

    async def follow(self, row: ResourceRow | None) -> None:
        """Count an ingestion that has just ended, and remove its parts; each attempt has parts of its own."""
        if row is None:
            return
        reason = status_of(row).reason
        self._world.measures.ended.labels(row.state, reason.code if reason else "").inc()
        await self._remove(parts_of(row))

    async def _remove(self, parts: str) -> None:
        try:
            await asyncio.to_thread(self._world.objects.delete_prefix, f"{parts}/")
        except LonghaulError as error:
            log.warning("parts left behind", prefix=parts, reason=error.reason, error=error.message)
