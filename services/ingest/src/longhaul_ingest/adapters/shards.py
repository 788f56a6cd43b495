"""A claimed shard from claim to result: worked on in the engine, its lease renewed, its end recorded once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from longhaul_core.db import Claim, ResourceRow, queue, resources
from longhaul_core.db.session import Session
from longhaul_core.engine import RemoteTaskError, WorkerDied, WorkerMemoryExceeded
from longhaul_core.errors import Aborted, ErrorCode, LonghaulError
from longhaul_core.logging import get_logger

from longhaul_ingest.adapters import repository
from longhaul_ingest.adapters.commit import spec_of
from longhaul_ingest.adapters.endings import Endings
from longhaul_ingest.adapters.failpoints import Point
from longhaul_ingest.adapters.repository import JobKey, Setback, parts_of
from longhaul_ingest.adapters.tasks import run_shard
from longhaul_ingest.adapters.world import Limits, World
from longhaul_ingest.domain.ingestion import INGESTION, JobState, Reason

log = get_logger(__name__)

DEFECTS = frozenset({ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE})
"""Errors that another attempt may not meet; all others come from the sources or the disk and end the ingestion."""


RETRY_SECONDS = 3.0
"""Before a shard is tried again that met a fault of a store."""


class ShardWorker:
    """Works on the shards that this replica claimed."""

    def __init__(self, world: World, limits: Limits, endings: Endings) -> None:
        self._world = world
        self._limits = limits
        self._endings = endings
        self._tasks: dict[str, set[asyncio.Task[Any]]] = defaultdict(set)
        self._live: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)

    def live(self, job: JobKey) -> Mapping[str, Mapping[str, Any]]:
        """The counts that workers reported for shards which are not done, by index."""
        return dict(self._live.get(str(job), {}))

    async def abandon(self, job: JobKey) -> None:
        """Stop the work on all shards of a job, the caller's own aside."""
        tasks = self._tasks.get(str(job), set()) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def work(self, claim: Claim) -> None:
        """Work on one shard; returns when its end is recorded or it belongs to somebody else."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[claim.job].add(task)
        self._world.measures.active_shards.inc()
        try:
            await self._attempt(claim)
        except asyncio.CancelledError:
            await self._give_back(claim)
            raise
        finally:
            self._world.measures.active_shards.dec()
            self._forget(claim, task)

    async def _attempt(self, claim: Claim) -> None:
        row = await self._row(JobKey.parse(claim.job))
        if row is None:
            return
        try:
            result = await self._run(claim, row)
        except Aborted:
            return
        except (WorkerDied, WorkerMemoryExceeded) as error:
            self._world.measures.deaths.inc()
            await self._record_setback(claim, error.reason, error.message)
            return
        except RemoteTaskError as error:
            await self._settle_error(claim, error)
            return
        self._world.failpoints.reach(Point.SHARD_WORKED)
        now = self._world.clock.now()
        with suppress(Aborted):  # it was cancelled, or taken over after a long pause
            await self._world.db.run(lambda session: repository.complete_shard(session, claim, result, now))
            self._world.measures.shard_done(result)
            self._world.failpoints.reach(Point.SHARD_RECORDED)

    async def _run(self, claim: Claim, row: ResourceRow) -> dict[str, Any]:
        """The engine's answer. Raises Aborted where the claim was lost meanwhile, and whatever the engine raises."""
        live = self._live[claim.job]

        def report(progress: dict[str, Any]) -> None:
            live[str(claim.index)] = progress

        work = asyncio.create_task(self._world.engine.submit(run_shard, self._payload(claim, row), on_progress=report))
        lease = asyncio.create_task(self._hold(claim))
        try:
            await asyncio.wait((work, lease), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await lease  # raises why it ended
            return await work
        finally:
            for task in (work, lease):
                task.cancel()
            await asyncio.gather(work, lease, return_exceptions=True)

    async def _hold(self, claim: Claim) -> None:
        """Renew the lease until it is lost."""
        while True:
            await asyncio.sleep(self._limits.lease_seconds / 3)
            await self._world.db.run(lambda session: queue.renew(session, claim, self._limits.lease_seconds))

    def _payload(self, claim: Claim, row: ResourceRow) -> dict[str, Any]:
        spec = spec_of(row)
        source = next(source for source in spec.sources if source.name == claim.payload["source"])
        return {
            "index": claim.index,
            "pieces": claim.payload["pieces"],
            "source": source.model_dump(mode="json"),
            "extraction": spec.cleaning.extraction.value,
            "filters": [item.model_dump(mode="json") for item in spec.cleaning.filters],
            "drop_samples": spec.cleaning.drop_samples,
            "fix_text": spec.cleaning.fix_text,
            "annotate": spec.cleaning.annotate,
            "store_url": self._limits.store_url,
            "prefix": parts_of(row),
        }

    async def _settle_error(self, claim: Claim, error: RemoteTaskError) -> None:
        if error.code in DEFECTS:
            log.error("shard failed by a defect", job=claim.job, shard=claim.index, traceback=error.traceback_text)
            await self._record_setback(claim, error.reason, error.message, RETRY_SECONDS)
            return
        log.warning("shard failed", job=claim.job, shard=claim.index, reason=error.reason, error=error.message)
        job = JobKey.parse(claim.job)
        await self.abandon(job)
        await self._endings.fail(job, Reason.of(error))

    async def _record_setback(self, claim: Claim, reason: str, message: str, delay_seconds: float = 0.0) -> None:
        row = await self._row(JobKey.parse(claim.job))
        if row is None:
            return
        where = self._live[claim.job].pop(str(claim.index), {}).get("url") or _first_file(claim)
        setback = Setback(where, reason, message, delay_seconds)
        log.warning("shard set back", job=claim.job, shard=claim.index, where=where, reason=reason, error=message)
        now, attempts = self._world.clock.now(), self._limits.shard_attempts
        allowed = spec_of(row).cleaning.maximum_lost_shards

        def transact(session: Session) -> ResourceRow | None:
            return repository.record_setback(session, claim, setback, attempts=attempts, allowed=allowed, now=now)

        with suppress(Aborted):
            await self._endings.follow(await self._world.db.run(transact))

    async def _give_back(self, claim: Claim) -> None:
        with suppress(LonghaulError):  # the job is gone, or the claim; the lease ends the rest
            await self._world.db.run(lambda session: queue.release(session, claim))

    async def _row(self, job: JobKey) -> ResourceRow | None:
        row = await self._world.db.read(lambda session: resources.find(session, INGESTION, job.project, job.id))
        return row if row is not None and row.state == JobState.RUNNING and JobKey.of(row) == job else None

    def _forget(self, claim: Claim, task: asyncio.Task[Any]) -> None:
        self._tasks[claim.job].discard(task)
        self._live[claim.job].pop(str(claim.index), None)
        if not self._tasks[claim.job]:
            self._tasks.pop(claim.job)
            self._live.pop(claim.job, None)


def _first_file(claim: Claim) -> str:
    return str(claim.payload["pieces"][0][1])
