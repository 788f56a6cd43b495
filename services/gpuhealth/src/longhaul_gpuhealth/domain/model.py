"""What is said about GPUs and nodes: samples in, findings and states out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

NODE_LEVEL = -1
"""Index in place of a GPU's for what concerns the node as a whole."""


class HealthState(StrEnum):
    """State of a GPU or a node."""

    HEALTHY = "HEALTHY"
    SUSPECT = "SUSPECT"
    DEGRADED = "DEGRADED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"
    QUARANTINED = "QUARANTINED"
    RECOVERING = "RECOVERING"


class Severity(IntEnum):
    """How bad a finding is; greater is worse."""

    INFO = 1
    WARNING = 2
    ERROR = 3
    CRITICAL = 4


class HealthAction(IntEnum):
    """What a rule asks for; greater goes further."""

    EVENT = 1
    RESTART_APPLICATION = 2
    DIAGNOSE = 3
    HUMAN = 4
    DRAIN = 5
    ISOLATE = 6

    @property
    def takes_node_out(self) -> bool:
        """Whether the node is quarantined for it."""
        return self in (HealthAction.DRAIN, HealthAction.ISOLATE)


class Remedy(IntEnum):
    """What repairs a GPU, once its node is out and empty; greater costs more."""

    NONE = 0
    RESET = 1
    REBOOT = 2
    REPLACE = 3


_STATES = {
    Severity.INFO: HealthState.HEALTHY,
    Severity.WARNING: HealthState.SUSPECT,
    Severity.ERROR: HealthState.DEGRADED,
    Severity.CRITICAL: HealthState.FATAL,
}
_BADNESS = (
    HealthState.HEALTHY,
    HealthState.SUSPECT,
    HealthState.UNKNOWN,
    HealthState.DEGRADED,
    HealthState.FATAL,
)


def state_of(severity: Severity) -> HealthState:
    """The state of a GPU whose worst active finding has that severity."""
    return _STATES[severity]


def worst(*states: HealthState) -> HealthState:
    """The worst of the states that a verdict can have; HEALTHY of none."""
    return max(states, key=_BADNESS.index, default=HealthState.HEALTHY)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one signal; `time` in seconds since the epoch."""

    node: str
    gpu: int
    signal: str
    value: float
    time: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that fired on a GPU, with the samples that made it fire."""

    rule: str
    rule_version: str
    severity: Severity
    action: HealthAction
    gpu: int
    gpu_uuid: str
    message: str
    first_time: float
    last_time: float
    active: bool = True
    shadow: bool = False
    computes: bool = True
    evidence: tuple[Sample, ...] = ()
    remedy: Remedy = Remedy.NONE
    when_idle: bool = False

    @property
    def takes_node_out(self) -> bool:
        """Whether the node must leave for it, now or (`when_idle`) once nothing runs there."""
        return self.active and not self.shadow and self.action.takes_node_out


@dataclass(frozen=True, slots=True)
class Job:
    """What uses a GPU: a pod, and the run and the rank of it where the pod is one of ours. `rank` -1: not known."""

    namespace: str
    pod: str
    project: str = ""
    run: str = ""
    rank: int = -1

    @property
    def peer_group(self) -> str:
        """GPUs of one group do the same work at the same time; empty: nobody knows."""
        return f"{self.project}/{self.run}" if self.run else ""


@dataclass(frozen=True, slots=True)
class GpuVerdict:
    """What the samples say about one GPU; `signals` holds the newest values by short name."""

    index: int
    uuid: str
    model: str
    state: HealthState
    signals: Mapping[str, float] = field(default_factory=dict)
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What the samples say about one node; never QUARANTINED or RECOVERING, which are decisions.

    `settling` says why nothing should follow from it yet; empty: nothing is in the way.
    """

    node: str
    state: HealthState
    gpus: tuple[GpuVerdict, ...] = ()
    findings: tuple[Finding, ...] = ()
    last_scrape_time: float | None = None
    scrape_error: str = ""
    settling: str = ""

    @property
    def worst_finding(self) -> Finding | None:
        """The active finding that goes furthest."""
        acting = [finding for finding in self.findings if finding.active and not finding.shadow]
        return max(acting, key=lambda finding: (finding.action, finding.severity, finding.last_time), default=None)
