"""Takes agents in: checks who they are and gives them a session.

Heartbeats touch memory only; numbered reports go over the desk of the run (see `report_desk`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from longhaul_core.errors import FailedPrecondition, NotFound, PermissionDenied

from longhaul_training.adapters.hub import AgentHub, AgentSession
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.pod_identity import PodIdentity
from longhaul_training.adapters.report_desk import ReportDesks
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_store import RunStore, StoredRun
from longhaul_training.adapters.shared_read import SharedRead
from longhaul_training.domain.checkup_record import Finding
from longhaul_training.domain.observations import WorkerView


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
        self._hub = hub
        self._identity = identity
        self._wake = wake
        self._reading: dict[tuple[str, str], SharedRead[StoredRun]] = {}
        self.desks = ReportDesks(reports, leadership, wake)

    async def admit(self, arrival: Arrival, term: int) -> Admission:
        """Opens a session; raises PermissionDenied, or FailedPrecondition for a pod that was replaced."""
        try:
            stored = await self._read(arrival.project, arrival.run_id)
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

    async def _read(self, project: str, run_id: str) -> StoredRun:
        """The run as it is now; agents that join together read it together."""
        key = project, run_id
        shared = self._reading.setdefault(key, SharedRead(partial(self._runs.get, project, run_id)))
        try:
            return await shared.read()
        finally:
            if not shared.busy:
                self._reading.pop(key, None)


def _denied(pod: str) -> PermissionDenied:
    return PermissionDenied(f"the token is not that of pod {pod}", reason="POD_TOKEN_WRONG", metadata={"pod": pod})
