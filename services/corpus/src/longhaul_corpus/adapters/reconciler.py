"""The loop that moves jobs on: after each finished item, when ingest commits a dataset, when a job is accepted."""

import asyncio
from contextlib import suppress
from typing import Protocol

from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.errors import LonghaulError, NotFound
from longhaul_core.logging import get_logger
from prometheus_client import Gauge

from longhaul_corpus.adapters.runner import Runner
from longhaul_corpus.adapters.upstream import Datasets
from longhaul_corpus.domain.jobs import ACTIVE, JobState

_POLL_SECONDS = 0.25
"""The most that a job which another replica accepted waits for this one."""
_RECONNECT_SECONDS = 1.0

log = get_logger(__name__)


class Steps(Protocol):
    """Moves jobs of one kind on."""

    async def step(self, row: ResourceRow) -> bool:
        """Move a job as far as it goes now; tells whether there may be more to do at once."""
        ...


class Reconciler:
    """Looks at every job that is not at its end, as often as anything may have changed."""

    def __init__(self, db: Database, runner: Runner, datasets: Datasets, steps: dict[str, Steps], jobs: Gauge) -> None:
        self._db = db
        self._runner = runner
        self._datasets = datasets
        self._steps = steps
        self._jobs_gauge = jobs
        self._watches: dict[str, asyncio.Task[None]] = {}

    def poke(self) -> None:
        """Look again now."""
        self._runner.finished.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until told to stop."""
        wake = self._runner.finished
        while not stop.is_set():
            wake.clear()
            if await self._round():
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), _POLL_SECONDS)
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _round(self) -> bool:
        """Step every job once; tells whether any moved."""
        moved = running = False
        waiting: set[str] = set()
        for kind, steps in self._steps.items():
            for row in await self._jobs(kind):
                if row.state == JobState.WAITING_FOR_INPUTS:
                    waiting.add(row.project)
                running |= row.state == JobState.RUNNING
                moved |= await self._step(steps, row)
        self._follow(waiting)
        self._runner.expect(running)
        if moved:
            self._runner.poke()
        return moved

    async def _jobs(self, kind: str) -> list[ResourceRow]:
        try:
            rows = await self._db.read(lambda session: resources.list_all(session, kind, states=ACTIVE))
        except LonghaulError as error:
            log.warning("jobs not read", kind=kind, reason=error.reason, error=error.message)
            return []
        for state in ACTIVE:
            self._jobs_gauge.labels(kind=kind, state=state).set(sum(row.state == state for row in rows))
        return rows

    async def _step(self, steps: Steps, row: ResourceRow) -> bool:
        try:
            return await steps.step(row)
        except NotFound:
            return False  # deleted meanwhile
        except LonghaulError as error:
            log.warning("job not moved", kind=row.kind, job=row.id, reason=error.reason, error=error.message)
            return False

    def _follow(self, projects: set[str]) -> None:
        """Watch the datasets of the projects in which a job waits."""
        for project in projects - self._watches.keys():
            self._watches[project] = asyncio.create_task(self._watch(project))
        for project in self._watches.keys() - projects:
            self._watches.pop(project).cancel()

    async def _watch(self, project: str) -> None:
        while True:
            try:
                await self._datasets.changes(project)
                self.poke()
            except LonghaulError:
                await asyncio.sleep(_RECONNECT_SECONDS)  # the poll goes on meanwhile and says why it waits
