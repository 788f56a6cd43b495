"""What the controller sees of the world when it decides about one run: a value, made by the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from longhaul_training.domain.checkup_record import Finding
from longhaul_training.domain.placement import Capacity
from longhaul_training.domain.reports import Reports


class PodPhase(StrEnum):
    """Phase of a pod; UNKNOWN means that its node does not answer."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of the run, of whatever incarnation."""

    name: str
    uid: str
    phase: PodPhase
    node: str
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    deleting: bool = False
    finished_at: float | None = None
    disrupted: bool = False
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the cluster refused to create a pod. `lasting`: asking again won't help until the run itself is changed."""

    code: str
    message: str
    action: str = ""
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class DrainView:
    """A request of gpuhealth to leave a node. `computes`: whether a checkpoint can still be written there."""

    session: str
    computes: bool
    cause: str
    requested_at: float


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node of the cluster."""

    name: str
    ready: bool
    schedulable: bool
    drain: DrainView | None = None


class WorkerPhase(StrEnum):
    """What a worker is doing, as it reports itself."""

    STARTING = "starting"
    RESTORING = "restoring"
    STEPPING = "stepping"
    CHECKPOINTING = "checkpointing"
    VALIDATING = "validating"
    FINISHING = "finishing"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker in the last heartbeat of its agent."""

    rank: int
    phase: str
    step: int
    silent_seconds: float = 0.0
    process_id: int = 0
    local_rank: int = 0
    own_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class AgentView:
    """The agent of one pod as this leader knows it.

    `silent_seconds` is time during which the controller listened and heard nothing; its own stalls are taken out, and
    for an agent that this leader never heard it begins one reconnect period after it took the lead. `closed_seconds`
    is how long the stream has been closed, 0 while it is open. `ready_epoch` is the epoch for which it has answered
    EpochReady.
    """

    pod: str
    connected: bool
    silent_seconds: float
    closed_seconds: float = 0.0
    epoch: int = 0
    ready_epoch: int = 0
    rendezvous_address: str = ""
    workers: tuple[WorkerView, ...] = ()
    problems: tuple[str, ...] = ()
    checks: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class StragglerView:
    """The rank that has been slowest at its own work for `seconds`; `score` is its peers' median over its own time."""

    rank: int
    pod: str
    score: float
    seconds: float


class InputStatus(StrEnum):
    """Whether the run's token set can be used."""

    READY = "READY"
    MISSING = "MISSING"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class InputView:
    """The run's token set. UNKNOWN: the corpus service did not answer yet."""

    status: InputStatus = InputStatus.UNKNOWN
    message: str = ""
    manifest_key: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times of the controller, seconds, and what bounds a run's failures."""

    suspect_silence: float = 5.0
    lost_silence: float = 15.0
    suspect_closed: float = 1.0
    closed_stream: float = 2.5
    peer_settle: float = 0.7
    reconnect: float = 10.0
    join: float = 120.0
    start: float = 600.0
    drain: float = 60.0
    cancel: float = 30.0
    gang: float = 300.0
    requeue_base: float = 30.0
    requeue_maximum: float = 600.0
    hang: float = 60.0
    hang_steps: float = 3.0
    backoff_base: float = 1.0
    backoff_maximum: float = 60.0
    check: float = 120.0
    diagnosis_pause: float = 1800.0
    elastic_patience: float = 20.0
    slow_share: float = 0.05
    slow_seconds: float = 300.0
    slow_act_share: float = 0.20
    straggler_score: float = 0.7
    straggler_seconds: float = 60.0
    accused: float = 86_400.0


@dataclass(frozen=True, slots=True)
class World:
    """Everything `decide` may look at beside the run itself."""

    now: float
    pods: Mapping[str, PodView] = field(default_factory=dict)
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    agents: Mapping[str, AgentView] = field(default_factory=dict)
    training: Reports = field(default_factory=Reports)
    inputs: InputView = InputView()
    capacity: Capacity = field(default_factory=Capacity)
    queue_problem: str = ""
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    blind: bool = False
    preempted_by: str = ""
    admission_priority: int = 0
    straggler: StragglerView | None = None
    limits: Limits = Limits()
