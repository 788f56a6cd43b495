"""Takes agents in: checks who they are, gives them a session, and commits what they report.

Heartbeats touch memory only. Numbered reports are committed in batches, in order, and acknowledged after the commit;
a batch that can't be committed is tried again, the agent keeps it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from longhaul_core.errors import Aborted, FailedPrecondition, LonghaulError, NotFound, PermissionDenied
from longhaul_core.logging import get_logger

from longhaul_training.adapters.commands import Acknowledge, Redirect
from longhaul_training.adapters.hub import AgentHub, AgentSession
from longhaul_training.adapters.leadership import Leadership, is_stale
from longhaul_training.adapters.pod_identity import PodIdentity
from longhaul_training.adapters.report_store import NoticeReport, Report, ReportStore, StepReport
from longhaul_training.adapters.run_store import RunStore
from longhaul_training.domain.checkup_record import Finding
from longhaul_training.domain.observations import WorkerView

RETRY_SECONDS = 0.5
GATHER_SECONDS = 0.2
# Rows between looks whether a run's table should be archived.
ARCHIVE_EVERY_ROWS = 512

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What an agent says of itself when it joins."""

    project: str
    run_id: str
    pod: str
    slot: int
    incarnation: int
    gpus: int
    epoch: int
    workers: tuple[WorkerView, ...]
    token: str
    checks: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """A session, and up to where the pod's reports are committed."""

    session: AgentSession
    acknowledged: int


class Reception:
    """Admits agents for the leader."""

    def __init__(
        self,
        runs: RunStore,
        reports: ReportStore,
        hub: AgentHub,
        identity: PodIdentity,
        leadership: Leadership,
        wake: Callable[[], None],
    ) -> None:
        self._runs = runs
        self._reports = reports
        self._hub = hub
        self._identity = identity
        self._leadership = leadership
        self._wake = wake

    async def admit(self, arrival: Arrival, term: int) -> Admission:
        """Opens a session; raises PermissionDenied, or FailedPrecondition for a pod that was replaced."""
        try:
            stored = await self._runs.get(arrival.project, arrival.run_id)
        except NotFound:
            raise _denied(arrival.pod) from None
        run = stored.run
        if not self._identity.accepts(arrival.token, run.uid, arrival.slot, arrival.incarnation):
            raise _denied(arrival.pod)
        slot = run.current_pods().get(arrival.pod)
        if slot is None or (slot.index, slot.incarnation) != (arrival.slot, arrival.incarnation):
            raise FailedPrecondition(
                f"pod {arrival.pod} is no longer wanted by {run.name}",
                reason="POD_SUPERSEDED",
                metadata={"pod": arrival.pod},
            )
        problems: tuple[str, ...] = ()
        if arrival.gpus != run.spec.gpus_per_pod:
            problems = (f"the pod has {arrival.gpus} GPU(s), the run wants {run.spec.gpus_per_pod} a node",)
        if stored.row.spec["resources"].get("preflight", "") != "off":
            problems += tuple(f"{check.check}: {check.message}" for check in arrival.checks if not check.passed)
        session = AgentSession(arrival.pod, arrival.project, arrival.run_id, term)
        self._hub.attach(session, arrival.epoch, arrival.workers, problems, arrival.checks)
        self._wake()
        return Admission(session, int(stored.row.status["sequences"].get(arrival.pod, 0)))

    def desk(self, session: AgentSession) -> ReportDesk:
        """Where the reports of one session are handed in."""
        return ReportDesk(session, self._reports, self._leadership, self._wake)


class ReportDesk:
    """Commits the reports of one session, those that wait together as one batch."""

    def __init__(
        self, session: AgentSession, reports: ReportStore, leadership: Leadership, wake: Callable[[], None]
    ) -> None:
        self._session = session
        self._reports = reports
        self._leadership = leadership
        self._wake = wake
        self._waiting: list[tuple[int, Report]] = []
        self._filled = asyncio.Event()
        self._urgent = asyncio.Event()
        self._rows = 0

    def hand_in(self, sequence: int, report: Report) -> None:
        """Queues a report."""
        self._waiting.append((sequence, report))
        self._filled.set()
        if not isinstance(report, StepReport | NoticeReport):
            self._urgent.set()

    async def run(self) -> None:
        """Commits until cancelled, or until another replica leads."""
        while True:
            await self._filled.wait()
            await self._gather()
            self._filled.clear()
            self._urgent.clear()
            batch, self._waiting = self._waiting, []
            if not await self._commit(batch):
                return

    async def _gather(self) -> None:
        """Lets metric rows come together, so that fast steps don't cost a transaction each; what is urgent goes now."""
        try:
            await asyncio.wait_for(self._urgent.wait(), GATHER_SECONDS)
        except TimeoutError:
            return

    async def _commit(self, batch: list[tuple[int, Report]]) -> bool:
        session = self._session
        while True:
            try:
                stored = await self._reports.apply(session.project, session.run_id, session.pod, batch, session.term)
            except Aborted as error:
                if is_stale(error):
                    session.outgoing.put_nowait(Redirect(await self._leadership.leader_address()))
                    session.outgoing.put_nowait(None)
                    return False
                log.warning("reports not committed", pod=session.pod, error=str(error))
            except LonghaulError as error:
                log.warning("reports not committed", pod=session.pod, error=str(error))
            else:
                session.outgoing.put_nowait(Acknowledge(batch[-1][0]))
                self._wake()
                await self._archive(stored.run.uid, batch)
                return True
            await asyncio.sleep(RETRY_SECONDS)

    async def _archive(self, run_uid: str, batch: list[tuple[int, Report]]) -> None:
        self._rows += sum(len(report.rows) for _, report in batch if isinstance(report, StepReport))
        if self._rows < ARCHIVE_EVERY_ROWS:
            return
        self._rows = 0
        try:
            await self._reports.archive(self._session.project, self._session.run_id, run_uid)
        except LonghaulError as error:
            log.warning("metric rows not archived", pod=self._session.pod, error=str(error))


def _denied(pod: str) -> PermissionDenied:
    return PermissionDenied(f"the token is not that of pod {pod}", reason="POD_TOKEN_WRONG", metadata={"pod": pod})
