"""Works on queued items: claims them, runs them in the engine, renews the claims meanwhile, records the results."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from longhaul_core.db import Claim, Database, ResourceRow, queue, resources
from longhaul_core.engine import WORKER_ENDED, Engine, RemoteTaskError
from longhaul_core.engine.protocol import Task
from longhaul_core.errors import Aborted, Cancelled, LonghaulError
from longhaul_core.failpoints import Failpoints
from longhaul_core.logging import get_logger
from prometheus_client import Counter, Histogram

from longhaul_corpus.adapters.failpoints import Point
from longhaul_corpus.adapters.records import Job, reason_of
from longhaul_corpus.domain.jobs import worth_retrying

_POLL_SECONDS = 1.0
_EXPECTING_POLL_SECONDS = 0.1
"""While a job runs: another replica may have queued its next phase."""
_RETRY_DELAY_SECONDS = 0.5

log = get_logger(__name__)


class Assignments(Protocol):
    """Turns a claim into what the engine runs."""

    def __call__(self, row: ResourceRow, claim: Claim) -> tuple[Task, dict[str, Any]]:
        """Return the task and its payload."""
        ...


@dataclass(frozen=True, slots=True)
class RunnerMetrics:
    """What the runner counts."""

    items: Counter
    seconds: Histogram
    text_bytes: Counter


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """After a replica dies its items wait `lease_seconds` for another; an item may fail `shard_attempts` times."""

    lease_seconds: float
    shard_attempts: int


class Runner:
    """Keeps the engine busy with items of all jobs, oldest first."""

    def __init__(
        self,
        db: Database,
        engine: Engine,
        assignments: Mapping[str, Assignments],
        owner: str,
        metrics: RunnerMetrics,
        limits: RunnerLimits,
        failpoints: Failpoints,
    ) -> None:
        self._db = db
        self._engine = engine
        self._assignments = assignments
        self._owner = owner
        self._metrics = metrics
        self._limits = limits
        self._failpoints = failpoints
        self._wake = asyncio.Event()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._fractions: dict[tuple[str, str], dict[int, float]] = {}
        self._draining = False
        self._expecting = False
        self.finished = asyncio.Event()
        """Set whenever an item ended, so that the next phase can begin at once."""

    def poke(self) -> None:
        """Look for new items now."""
        self._wake.set()

    def expect(self, jobs_run: bool) -> None:
        """Look for items often while any job runs; other replicas queue items too."""
        if jobs_run and not self._expecting:
            self.poke()
        self._expecting = jobs_run

    def fractions(self, job: str, phase: str) -> Mapping[int, float]:
        """Progress of the items of a phase that this replica works on, by position."""
        return self._fractions.get((job, phase), {})

    async def run(self, stop: asyncio.Event) -> None:
        """Claim and run items until told to stop."""
        while not stop.is_set() and not self._draining:
            self._wake.clear()
            try:
                while len(self._running) < self._engine.capacity and await self._start_one():
                    pass
            except LonghaulError as error:
                log.warning("claiming failed", reason=error.reason, error=error.message)
            with suppress(TimeoutError):
                seconds = _EXPECTING_POLL_SECONDS if self._expecting else _POLL_SECONDS
                await asyncio.wait_for(self._wake.wait(), seconds)
        await self.drain()

    async def drain(self) -> None:
        """Stop working and put the items back for other replicas."""
        self._draining = True
        self._wake.set()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _start_one(self) -> bool:
        if self._draining:
            return False
        claim: Claim | None = None
        for kind in self._assignments:
            claim = claim or await self._db.run(
                lambda session, prefix=f"{kind}/": queue.claim(  # type: ignore[misc]
                    session, job_prefix=prefix, owner=self._owner, lease_seconds=self._limits.lease_seconds
                )
            )
        if claim is None:
            return False
        task = asyncio.create_task(self._work(claim))
        self._running[claim.item_id] = task
        task.add_done_callback(lambda _: self._ended(claim))
        return True

    def _ended(self, claim: Claim) -> None:
        self._running.pop(claim.item_id, None)
        self._fractions.get((claim.job, claim.phase), {}).pop(claim.index, None)
        self.finished.set()
        self.poke()

    async def _work(self, claim: Claim) -> None:
        """Run one item and record how it ended; a stale claim records nothing."""
        try:
            await self._attempt(claim)
        except Aborted as error:
            log.info("item taken away", job=claim.job, phase=claim.phase, index=claim.index, reason=error.reason)
        except asyncio.CancelledError:
            with suppress(LonghaulError):
                await self._db.run(lambda session: queue.release(session, claim))
            raise
        except LonghaulError as error:
            log.error("item not recorded", job=claim.job, phase=claim.phase, index=claim.index, error=error.message)

    async def _attempt(self, claim: Claim) -> None:
        job = Job.parse(claim.job)
        row = await self._db.read(lambda session: resources.find(session, job.kind, job.project, job.id))
        if row is None or str(Job.of(row)) != claim.job:
            await self._db.run(lambda session: queue.discard(session, claim.job))
            return
        try:
            with self._metrics.seconds.labels(phase=claim.phase).time():
                result = await self._run(row, claim)
        except Aborted:
            raise
        except LonghaulError as error:
            await self._fail(claim, error)
            return
        self._failpoints.reach(Point.ITEM_WORKED)
        await self._db.run(lambda session: queue.complete(session, claim, result))
        self._failpoints.reach(Point.ITEM_RECORDED)
        self._metrics.items.labels(phase=claim.phase, outcome="done").inc()
        if "text_bytes" in result:
            self._metrics.text_bytes.labels(phase=claim.phase).inc(result["text_bytes"])

    async def _run(self, row: ResourceRow, claim: Claim) -> dict[str, Any]:
        """Run the item in the engine while renewing its claim; whichever ends badly first ends the other."""
        task, payload = self._assignments[row.kind](row, claim)
        fractions = self._fractions.setdefault((claim.job, claim.phase), {})

        def note(progress: dict[str, Any]) -> None:
            fractions[claim.index] = progress["done"] / max(progress["total"], 1)

        work = asyncio.ensure_future(self._engine.submit(task, payload, on_progress=note))
        lease = asyncio.create_task(self._renew(claim))
        try:
            await asyncio.wait((work, lease), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await lease
            return await work
        finally:
            for part in (work, lease):
                part.cancel()
            await asyncio.gather(work, lease, return_exceptions=True)

    async def _renew(self, claim: Claim) -> None:
        """Hold the claim until cancelled. Raises Aborted once it is lost."""
        while True:
            await asyncio.sleep(self._limits.lease_seconds / 3)
            await self._db.run(lambda session: queue.renew(session, claim, self._limits.lease_seconds))

    async def _fail(self, claim: Claim, error: LonghaulError) -> None:
        cause = error.error if isinstance(error, RemoteTaskError) else error
        if isinstance(cause, Cancelled):  # the engine was closed: this replica is ending
            await self._db.run(lambda session: queue.release(session, claim))
            return
        failures = 1 + (json.loads(claim.error)["failures"] if claim.error else 0)
        retry = worth_retrying(
            cause.code, failures, self._limits.shard_attempts, worker_ended=cause.reason in WORKER_ENDED
        )
        log.warning(
            "item failed",
            job=claim.job,
            phase=claim.phase,
            index=claim.index,
            failures=failures,
            retry=retry,
            reason=cause.reason,
            error=cause.message,
            traceback=error.traceback_text if isinstance(error, RemoteTaskError) else "",
        )
        text = json.dumps({**reason_of(cause), "failures": failures})
        await self._db.run(
            lambda session: queue.fail(session, claim, text, retry=retry, delay_seconds=_RETRY_DELAY_SECONDS)
        )
        self._metrics.items.labels(phase=claim.phase, outcome="retried" if retry else "failed").inc()
