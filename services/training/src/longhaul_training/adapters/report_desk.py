"""Commits what the agents of one run report: what waits together, of whatever pods, as one transaction.

A session is acknowledged after the commit; a batch that fails is tried again, and the agent keeps it meanwhile.
A run of thousands of pods has a large record, and each commit reads and writes it whole: a commit a pod, all at once,
took minutes and 0.3 MB of memory each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from longhaul_core.errors import Aborted, LonghaulError
from longhaul_core.logging import get_logger

from longhaul_training.adapters.commands import Acknowledge, Redirect
from longhaul_training.adapters.hub import AgentSession
from longhaul_training.adapters.leadership import Leadership, is_stale
from longhaul_training.adapters.report_store import NoticeReport, Report, ReportStore, StepReport

RETRY_SECONDS = 0.5
GATHER_SECONDS = 0.2
# Bounds how long one transaction keeps other writers waiting.
PODS_A_COMMIT = 250
# Rows between looks whether a run's table should be archived.
ARCHIVE_EVERY_ROWS = 512

Batch = dict[AgentSession, list[tuple[int, Report]]]

log = get_logger(__name__)


class ReportDesk:
    """Where the reports of one run's sessions of one term are handed in."""

    def __init__(
        self, run: tuple[str, str], term: int, reports: ReportStore, leadership: Leadership, wake: Callable[[], None]
    ) -> None:
        self._project, self._run_id = run
        self._term = term
        self._reports = reports
        self._leadership = leadership
        self._wake = wake
        self._sessions: set[AgentSession] = set()
        self._waiting: Batch = {}
        self._filled = asyncio.Event()
        self._urgent = asyncio.Event()
        self._rows = 0

    def hand_in(self, session: AgentSession, sequence: int, report: Report) -> None:
        """Queues a report; the session is told when it is committed."""
        self._waiting.setdefault(session, []).append((sequence, report))
        self._filled.set()
        if not isinstance(report, StepReport | NoticeReport):
            self._urgent.set()

    def join(self, session: AgentSession) -> None:
        """Serves one more session."""
        self._sessions.add(session)

    def leave(self, session: AgentSession) -> bool:
        """Forgets a session and what it has waiting, which its agent reports again; whether it was the last."""
        self._sessions.discard(session)
        self._waiting.pop(session, None)
        return not self._sessions

    async def run(self) -> None:
        """Commits until cancelled, or until another replica leads; without it no stream of the run is worth keeping."""
        try:
            while True:
                await self._filled.wait()
                await self._gather()
                if not await self._commit(self._take()):
                    return
        finally:
            for session in self._sessions:
                session.outgoing.put_nowait(None)

    async def _gather(self) -> None:
        """Lets metric rows come together, so that fast steps don't cost a transaction each; what is urgent goes now."""
        try:
            await asyncio.wait_for(self._urgent.wait(), GATHER_SECONDS)
        except TimeoutError:
            return

    def _take(self) -> Batch:
        chosen = list(self._waiting)[:PODS_A_COMMIT]
        batch = {session: self._waiting.pop(session) for session in chosen}
        if not self._waiting:
            self._filled.clear()
            self._urgent.clear()
        return batch

    async def _commit(self, batch: Batch) -> bool:
        by_pod = {session.pod: reports for session, reports in batch.items()}
        while batch:
            try:
                uid = await self._reports.apply(self._project, self._run_id, by_pod, self._term)
            except Aborted as error:
                if is_stale(error):
                    await self._redirect()
                    return False
                log.warning("reports not committed", run=self._run_id, error=str(error))
            except LonghaulError as error:
                log.warning("reports not committed", run=self._run_id, error=str(error))
            else:
                for session, reports in batch.items():
                    session.outgoing.put_nowait(Acknowledge(reports[-1][0]))
                self._wake()
                await self._archive(uid, batch)
                return True
            await asyncio.sleep(RETRY_SECONDS)
        return True

    async def _redirect(self) -> None:
        leader = await self._leadership.leader_address()
        for session in self._sessions:
            session.outgoing.put_nowait(Redirect(leader))

    async def _archive(self, run_uid: str, batch: Batch) -> None:
        reports = (report for reports in batch.values() for _, report in reports)
        self._rows += sum(len(report.rows) for report in reports if isinstance(report, StepReport))
        if self._rows < ARCHIVE_EVERY_ROWS:
            return
        self._rows = 0
        try:
            await self._reports.archive(self._project, self._run_id, run_uid)
        except LonghaulError as error:
            log.warning("metric rows not archived", run=self._run_id, error=str(error))


class ReportDesks:
    """The desks of all runs; each is there while one of its sessions is."""

    def __init__(self, reports: ReportStore, leadership: Leadership, wake: Callable[[], None]) -> None:
        self._reports = reports
        self._leadership = leadership
        self._wake = wake
        self._desks: dict[tuple[tuple[str, str], int], tuple[ReportDesk, asyncio.Task[None]]] = {}

    @contextmanager
    def serving(self, session: AgentSession) -> Iterator[ReportDesk]:
        """The desk of a session's run, while the session lasts."""
        run = session.project, session.run_id
        key = run, session.term
        known = self._desks.get(key)
        if known is None or known[1].done():
            desk = ReportDesk(run, session.term, self._reports, self._leadership, self._wake)
            known = self._desks[key] = desk, asyncio.create_task(desk.run(), name=f"reports {session.run_id}")
        desk, task = known
        desk.join(session)
        try:
            yield desk
        finally:
            if desk.leave(session):
                task.cancel()
                if self._desks.get(key) is known:
                    del self._desks[key]
