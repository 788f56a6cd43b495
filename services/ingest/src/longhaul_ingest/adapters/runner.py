"""The loop of a replica: plans ingestions, works on shards that it claims, commits what is done.

All state is in the database, so replicas share the work, and one that dies loses nothing but the shards it held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from longhaul_core.db import Claim, ResourceRow, queue, resources
from longhaul_core.db.revisions import current_revision
from longhaul_core.db.session import Session
from longhaul_core.errors import LonghaulError, Unavailable
from longhaul_core.logging import get_logger
from longhaul_core.manifests import Manifest
from longhaul_core.objects import ObjectStore

from longhaul_ingest.adapters import repository
from longhaul_ingest.adapters.commit import commit, find_committed, spec_of
from longhaul_ingest.adapters.endings import Endings
from longhaul_ingest.adapters.failpoints import Point
from longhaul_ingest.adapters.history import CONTINUED, new_files, put_files, seen_files
from longhaul_ingest.adapters.repository import SHARDS, JobKey, parts_of
from longhaul_ingest.adapters.shards import ShardWorker
from longhaul_ingest.adapters.world import Limits, World
from longhaul_ingest.domain.ingestion import ACTIVE, INGESTION, JobState, Reason
from longhaul_ingest.domain.planning import Shard, plan_shards
from longhaul_ingest.domain.rates import RateWindow

log = get_logger(__name__)

PROGRESS_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0


class Runner:
    """Works until `stop`."""

    def __init__(self, world: World, limits: Limits) -> None:
        self._world = world
        self._limits = limits
        self._endings = Endings(world)
        self._shards = ShardWorker(world, limits, self._endings)
        self._tasks: set[asyncio.Task[None]] = set()
        self._rates: dict[str, RateWindow] = {}
        self._shown = 0.0
        self._draining = False

    async def run(self) -> None:
        """Look for work, again and again; a defect in one ingestion fails that ingestion only.

        While the database cannot be written, nothing moves and nothing ends.
        """
        while not self._world.stop.is_set():
            try:
                await self._look()
            except LonghaulError as error:
                log.warning("look for work failed", reason=error.reason, error=error.message)
                await self._world.clock.sleep(RETRY_SECONDS)
        await self.drain()

    async def _look(self) -> None:
        rows, revision = await self._world.db.read(_active)
        for row in rows:
            await self._advance(row)
        if any(row.state == JobState.RUNNING for row in rows):
            await self._claim()
            await self._show_progress(rows)
        await self._pause(revision, idle=not rows and not self._tasks)

    async def drain(self) -> None:
        """Take no more shards, and give unfinished ones back to the queue."""
        self._draining = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _advance(self, row: ResourceRow) -> None:
        """Whatever can be done now for one ingestion beside the work on its shards."""
        job = JobKey.of(row)
        try:
            if row.state == JobState.QUEUED:
                await self._plan(job, row)
            elif row.state == JobState.CANCELLING:
                await self._cancel(job, row)
            else:
                await self._finish(job, row)
        except LonghaulError as error:
            log.warning("ingestion failed", ingestion=row.id, reason=error.reason, error=error.message)
            await self._end(job, Reason.of(error))
        except Exception as error:
            log.exception("ingestion failed by a defect", ingestion=row.id)
            await self._end(job, Reason("INTERNAL", f"{type(error).__name__}: {error}", "See the log of ingest."))

    async def _plan(self, job: JobKey, row: ResourceRow) -> None:
        committed = await asyncio.to_thread(find_committed, self._world.objects, row)
        if committed is not None:
            await self._succeed(job, committed)
            return
        shards = await asyncio.to_thread(_plan_shards, self._world.objects, row)
        now = self._world.clock.now()
        await self._world.db.run(lambda session: repository.begin(session, job, shards, now))
        self._world.failpoints.reach(Point.PLANNED)

    async def _finish(self, job: JobKey, row: ResourceRow) -> None:
        counts = await self._world.db.read(lambda session: queue.counts(session, str(job), SHARDS))
        if not counts.finished or counts.total == 0:
            return
        results = await self._world.db.read(lambda session: queue.results(session, str(job), SHARDS))
        self._world.failpoints.reach(Point.BEFORE_MANIFEST)
        outcome = await asyncio.to_thread(commit, self._world.objects, row, results)
        self._world.failpoints.reach(Point.AFTER_MANIFEST)
        if isinstance(outcome, Reason):
            await self._end(job, outcome)
        else:
            await self._succeed(job, outcome)

    async def _succeed(self, job: JobKey, manifest: Manifest) -> None:
        now = self._world.clock.now()
        tally: Any = manifest.extra["tally"]
        await self._world.db.run(lambda session: repository.succeed(session, job, manifest, tally, now))
        self._rates.pop(str(job), None)
        self._world.measures.ended.labels(JobState.SUCCEEDED.value, "").inc()
        log.info("dataset committed", dataset=manifest.name, digest=manifest.digest, counts=dict(manifest.counts))

    async def _end(self, job: JobKey, reason: Reason) -> None:
        await self._shards.abandon(job)
        await self._endings.fail(job, reason)
        self._rates.pop(str(job), None)

    async def _cancel(self, job: JobKey, row: ResourceRow) -> None:
        await self._shards.abandon(job)
        await self._endings.cancel(job, parts_of(row))
        self._rates.pop(str(job), None)

    async def _claim(self) -> None:
        """Take as many shards as there are free workers."""
        while len(self._tasks) < self._world.engine.capacity and not self._draining:
            claim = await self._world.db.run(self._claim_one)
            if claim is None:
                return
            task = asyncio.create_task(self._shards.work(claim), name=f"{claim.job}#{claim.index}")
            self._tasks.add(task)
            task.add_done_callback(self._worked)

    def _claim_one(self, session: Session) -> Claim | None:
        return queue.claim(
            session,
            job_prefix=f"{INGESTION}/",
            owner=self._limits.owner,
            lease_seconds=self._limits.lease_seconds,
        )

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LonghaulError):  # the claim runs out, and the shard is taken again
            log.warning("shard not recorded", task=task.get_name(), reason=error.reason, error=error.message)
        elif error is not None:
            log.error("work on a shard ended by a defect", task=task.get_name(), exc_info=error)

    async def _show_progress(self, rows: list[ResourceRow]) -> None:
        moment = self._world.clock.monotonic()
        if moment - self._shown < PROGRESS_SECONDS:
            return
        self._shown = moment
        for row in rows:
            if row.state == JobState.RUNNING:
                await self._show(row, moment)

    async def _show(self, row: ResourceRow, moment: float) -> None:
        job = JobKey.of(row)
        live: Mapping[str, Any] = self._shards.live(job)
        done = repository.status_of(row).tally["bytes_read"] + sum(part["bytes"] for part in live.values())
        rate = self._rates.setdefault(str(job), RateWindow()).add(moment, done)
        now = self._world.clock.now()
        await self._world.db.run(lambda session: repository.show_progress(session, job, live, rate, now))

    async def _pause(self, revision: int, *, idle: bool) -> None:
        """Wait until a shard ends or something changes; with work under way, look again soon in any case."""
        stopped = asyncio.create_task(self._world.stop.wait())
        changed = asyncio.create_task(self._changed(revision))
        timeout = None if idle else self._limits.poll_seconds
        waits = (stopped, *self._tasks, changed) if idle else (stopped, *self._tasks)
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, changed):
            task.cancel()

    async def _changed(self, revision: int) -> None:
        with suppress(Unavailable):  # the server stops
            await self._world.db.feed.wait_beyond(revision)


def _active(session: Session) -> tuple[list[ResourceRow], int]:
    return resources.list_all(session, INGESTION, states=ACTIVE), current_revision(session)


def _plan_shards(store: ObjectStore, row: ResourceRow) -> list[Shard]:
    """Cut the files that are to be read, and write down which they are."""
    spec = spec_of(row)
    files = new_files(spec, seen_files(store, row.spec["inventory"].get(CONTINUED, [])))
    put_files(store, parts_of(row), files)
    return plan_shards([(source.name, source.kind, files[source.name]) for source in spec.sources])
