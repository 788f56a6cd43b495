"""States of a training run and the record that the controller keeps of it.

The record is the whole memory of the controller: whatever it did not write here it may forget at any moment. Times are
Unix seconds; they are only compared with one another, never with a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from longhaul_training.domain.checkup_record import Accusation, AccusedNode, Checkup, Finding


class RunState(StrEnum):
    """State of a run; the last three are terminal."""

    QUEUED = "QUEUED"
    WAITING_FOR_INPUTS = "WAITING_FOR_INPUTS"
    ADMITTED = "ADMITTED"
    PREFLIGHT = "PREFLIGHT"
    RENDEZVOUS = "RENDEZVOUS"
    RUNNING = "RUNNING"
    SUSPECT = "SUSPECT"
    RECOVERING = "RECOVERING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether the run is over for good; only an explicit retry of a failed run leads out."""
        return self in TERMINAL_STATES

    @property
    def holds_gpus(self) -> bool:
        """Whether the run's slots are placed and their GPUs taken."""
        return self in ACTIVE_STATES


TERMINAL_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
GROUPING_STATES = frozenset({RunState.ADMITTED, RunState.PREFLIGHT, RunState.RENDEZVOUS, RunState.RECOVERING})
STEPPING_STATES = frozenset({RunState.RUNNING, RunState.SUSPECT})
ACTIVE_STATES = GROUPING_STATES | STEPPING_STATES


class RecoveryAction(StrEnum):
    """How a fault is repaired, the cheapest first."""

    PROCESS = "PROCESS"
    POD = "POD"
    NODE = "NODE"
    ROLLBACK = "ROLLBACK"


class Wish(StrEnum):
    """What the user wants of a run."""

    RUN = "RUN"
    PAUSE = "PAUSE"
    CANCEL = "CANCEL"


@dataclass(frozen=True, slots=True)
class Desired:
    """The user's last word. `attempt` grows with each retry of a failed run; `nodes` 0: as it was created."""

    wish: Wish = Wish.RUN
    attempt: int = 1
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What the controller needs to know of a run's specification.

    `elastic_sizes` are the numbers of pods, below `pods`, that the run may go on with when a lost node can't be
    replaced; empty: it waits.
    """

    pods: int
    gpus_per_pod: int
    spares: int = 0
    priority: int = 0
    pool: str = ""
    token_set: str = ""
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[tuple[str, str], ...] = ()
    topology_label: str = ""
    steps: int = 0
    elastic_sizes: tuple[int, ...] = ()
    full_preflight: bool = False

    @property
    def gpus(self) -> int:
        """GPUs in use while the run trains, spares not counted."""
        return self.pods * self.gpus_per_pod


@dataclass(frozen=True, slots=True)
class Slot:
    """A stable place in a run; a pod is a slot and an incarnation and carries neither rank nor epoch.

    Incarnations only grow, so that the name of a pod is never used twice. `pod_uid` is set once the pod was seen,
    `joined` once its agent was. A spare slot's pod has no ranks and waits to take a member's place.
    """

    index: int
    incarnation: int = 1
    node: str = ""
    pod_uid: str = ""
    joined: bool = False
    spare: bool = False

    def renewed(self, node: str) -> Slot:
        """The slot's next incarnation, on `node`; empty: not placed yet."""
        return Slot(self.index, self.incarnation + 1, node, spare=self.spare)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the run is in its state, for a person, and what to do next; `available`: of the nodes that it lacks."""

    code: str = ""
    message: str = ""
    action: str = ""
    available: int = 0


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The checkpoint that an epoch begins with."""

    checkpoint: str
    manifest_key: str
    step: int


@dataclass(frozen=True, slots=True)
class PinnedInput:
    """The token set that a run was admitted with; later changes of the name's content do not touch the run."""

    name: str
    manifest_key: str
    digest: str


class StopPurpose(StrEnum):
    """Why the workers are being stopped: after a checkpoint, except for a cancel."""

    PAUSE = "PAUSE"
    DRAIN = "DRAIN"
    CANCEL = "CANCEL"
    PREEMPT = "PREEMPT"
    GROW = "GROW"
    DIAGNOSE = "DIAGNOSE"


@dataclass(frozen=True, slots=True)
class Stopping:
    """Workers of `epoch` are being stopped since `since`."""

    purpose: StopPurpose
    epoch: int
    since: float


@dataclass(frozen=True, slots=True)
class Incident:
    """One fault and its repair. Unset times are None; see `longhaul_training.domain.incidents` for the split."""

    number: int
    cause: str
    message: str
    action: RecoveryAction
    node: str
    epoch: int
    fault_step: int
    fault_at: float
    detected_at: float
    started_at: float | None = None
    restored_at: float | None = None
    recovered_at: float | None = None
    resume_step: int = 0


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Failures so far by cause, and how many in a row made no progress."""

    by_cause: tuple[tuple[str, int], ...] = ()
    without_progress: int = 0
    last_step: int = -1

    def count(self, cause: str) -> int:
        """Failures of one cause."""
        return dict(self.by_cause).get(cause, 0)


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Seconds in each kind of state, up to `until`."""

    until: float
    startup: float = 0.0
    stepping: float = 0.0
    recovery: float = 0.0
    paused: float = 0.0
    queued: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """At `at` the run was expected to end at `end`."""

    at: float
    end: float


@dataclass(frozen=True, slots=True)
class Control:
    """What the controller alone writes of a run, always in one transaction that checks its term."""

    since: float
    time: TimeSpent
    state: RunState = RunState.QUEUED
    reason: Reason = Reason()
    attempt: int = 1
    recovery: RecoveryAction | None = None
    epoch: int = 0
    registered_epoch: int = 0
    epoch_since: float = 0.0
    resume: ResumePoint | None = None
    pinned: PinnedInput | None = None
    slots: tuple[Slot, ...] = ()
    stopping: Stopping | None = None
    failures: FailureRecord = FailureRecord()
    backoff_until: float = 0.0
    incidents: tuple[Incident, ...] = ()
    avoided_nodes: tuple[str, ...] = ()
    admissions: int = 0
    requeues: int = 0
    admitted_priority: int = 0
    checkup: Checkup | None = None
    preflight_again: bool = False
    checklist: tuple[Finding, ...] = ()
    accusations: tuple[Accusation, ...] = ()
    accused: tuple[AccusedNode, ...] = ()
    diagnosed_at: float = 0.0
    diagnosed_epoch: int = 0
    noticed: tuple[str, ...] = ()
    forecasts: tuple[Forecast, ...] = ()
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def open_incident(self) -> Incident | None:
        """The incident that is being repaired or whose steps are being made again."""
        last = self.incidents[-1] if self.incidents else None
        return last if last is not None and last.recovered_at is None else None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the controller sees it: who it is, what is wanted, what was done."""

    project: str
    id: str
    uid: str
    spec: RunSpec
    control: Control
    desired: Desired = Desired()
    created_at: float = 0.0

    @property
    def name(self) -> str:
        """Resource name."""
        return f"projects/{self.project}/trainingRuns/{self.id}"

    @property
    def members(self) -> tuple[Slot, ...]:
        """Slots that have ranks, in the order of their ranks."""
        return tuple(slot for slot in self.control.slots if not slot.spare)

    @property
    def spares(self) -> tuple[Slot, ...]:
        """Slots that wait to take a member's place."""
        return tuple(slot for slot in self.control.slots if slot.spare)

    @property
    def world_size(self) -> int:
        """Workers of the present group, one a GPU."""
        return (len(self.members) or self.spec.pods) * self.spec.gpus_per_pod

    def pod_name(self, slot: Slot) -> str:
        """Name of the pod of a slot's present incarnation."""
        # Ids have no dot, so that runs of one name in two projects never share the name of a pod.
        return f"{self.project}.run-{self.id}-{slot.index}-{slot.incarnation}"

    def current_pods(self) -> dict[str, Slot]:
        """Pods that should exist now, by name; all others of this run are to be deleted."""
        if not self.control.state.holds_gpus:
            return {}
        return {self.pod_name(slot): slot for slot in self.control.slots if slot.node}


def new_control(now: float) -> Control:
    """The record of a run that was just accepted."""
    return Control(since=now, time=TimeSpent(until=now))
