"""The agents as this replica knows them: their open streams and last words, in memory only.

Whatever is lost here when the process dies is told again by the agents when they reconnect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from longhaul_core.logging import get_logger

from longhaul_training.adapters.attention import Attention
from longhaul_training.adapters.commands import Command, Redirect, Shutdown
from longhaul_training.domain.checkup_record import Finding
from longhaul_training.domain.observations import AgentView, WorkerView

# The same command is not repeated on a stream within this time; agents take repetitions for what they are.
REPEAT_SECONDS = 5.0

log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class AgentSession:
    """One open stream."""

    pod: str
    project: str
    run_id: str
    term: int
    outgoing: asyncio.Queue[Command | None] = field(default_factory=asyncio.Queue)
    sent: dict[str, tuple[Command, float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    """What is known of a pod's agent over all its streams to this leader."""

    heard_at: float
    session: AgentSession | None = None
    closed_at: float | None = None
    epoch: int = 0
    ready_epoch: int = 0
    rendezvous_address: str = ""
    workers: tuple[WorkerView, ...] = ()
    problems: tuple[str, ...] = ()
    checks: tuple[Finding, ...] = ()


class AgentHub:
    """Sessions by pod name; a pod's newer stream replaces its older one."""

    def __init__(self, attention: Attention, reconnect_seconds: float, wake: Callable[[], None]) -> None:
        self._attention = attention
        self._reconnect = reconnect_seconds
        self._wake = wake
        self._known: dict[str, _Known] = {}

    @property
    def connected(self) -> int:
        """Open streams."""
        return sum(known.session is not None for known in self._known.values())

    def attach(
        self,
        session: AgentSession,
        epoch: int,
        workers: tuple[WorkerView, ...],
        problems: tuple[str, ...],
        checks: tuple[Finding, ...] = (),
    ) -> None:
        """Takes a stream whose Join was accepted."""
        known = self._known.setdefault(session.pod, _Known(self._attention.seconds()))
        if known.session is not None:
            known.session.outgoing.put_nowait(None)
        known.session, known.closed_at = session, None
        known.problems, known.checks = problems, checks
        self.heard(session, epoch, workers)

    def detach(self, session: AgentSession) -> None:
        """The stream ended; a stream that was replaced meanwhile changes nothing."""
        known = self._known.get(session.pod)
        if known is not None and known.session is session:
            known.session = None
            known.closed_at = self._attention.seconds()
            self._wake()

    def heard(self, session: AgentSession, epoch: int, workers: tuple[WorkerView, ...]) -> None:
        """A Join or a heartbeat came."""
        known = self._known.get(session.pod)
        if known is None or known.session is not session:
            return
        known.heard_at = self._attention.seconds()
        notable = known.epoch != epoch or _phases(known.workers) != _phases(workers)
        known.epoch, known.workers = epoch, workers
        if notable:
            self._wake()

    def touched(self, session: AgentSession) -> None:
        """Any other message came."""
        known = self._known.get(session.pod)
        if known is not None and known.session is session:
            known.heard_at = self._attention.seconds()

    def prepared(self, session: AgentSession, epoch: int, address: str) -> None:
        """The agent answered EpochReady."""
        known = self._known.get(session.pod)
        if known is None or known.session is not session or epoch < known.ready_epoch:
            return
        known.ready_epoch = epoch
        known.rendezvous_address = address
        if epoch > known.epoch:
            # Older workers are dead; those of the last heartbeat are not this epoch's.
            known.epoch, known.workers = epoch, ()
        self._wake()

    def view(self, pod: str) -> AgentView:
        """What is known of a pod's agent; one never heard of is given a reconnect period before its silence counts."""
        now = self._attention.seconds()
        known = self._known.get(pod)
        if known is None:
            known = self._known[pod] = _Known(now + self._reconnect)
        return AgentView(
            pod=pod,
            connected=known.session is not None,
            silent_seconds=max(0.0, now - known.heard_at),
            closed_seconds=0.0 if known.closed_at is None else max(0.0, now - known.closed_at),
            epoch=known.epoch,
            ready_epoch=known.ready_epoch,
            rendezvous_address=known.rendezvous_address,
            workers=known.workers,
            problems=known.problems,
            checks=known.checks,
        )

    def silence(self, pod: str) -> float | None:
        """Seconds since a pod's agent was heard; None for one that this leader does not know."""
        known = self._known.get(pod)
        return None if known is None else max(0.0, self._attention.seconds() - known.heard_at)

    def send(self, pod: str, command: Command) -> None:
        """Queues a command for a pod's stream, unless the same went down it just now; dropped without a stream."""
        known = self._known.get(pod)
        session = known.session if known is not None else None
        if session is None:
            return
        kind, now = type(command).__name__, self._attention.seconds()
        last = session.sent.get(kind)
        if last is not None and last[0] == command and now - last[1] < REPEAT_SECONDS:
            return
        session.sent[kind] = (command, now)
        session.outgoing.put_nowait(command)

    def dismiss(self, pod: str, reason: str) -> None:
        """Tells a pod that is being deleted to end at once."""
        self.send(pod, Shutdown(reason))

    def keep_only(self, pods: Iterable[str]) -> None:
        """Forgets pods that no longer exist and have no stream."""
        wanted = frozenset(pods)
        for pod in [p for p, known in self._known.items() if p not in wanted and known.session is None]:
            del self._known[pod]

    def redirect_all(self, leader_address: str) -> None:
        """Sends every agent to the new leader and forgets them."""
        for known in self._known.values():
            if known.session is not None:
                known.session.outgoing.put_nowait(Redirect(leader_address))
                known.session.outgoing.put_nowait(None)
        log.info("agents redirected", agents=self.connected, leader=leader_address)
        self._known.clear()


def _phases(workers: tuple[WorkerView, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((worker.rank, worker.phase) for worker in workers)
