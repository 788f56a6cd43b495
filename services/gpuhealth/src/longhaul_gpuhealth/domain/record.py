"""What is kept of a node: its verdict, the decisions about it, and what is still to be done at the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from longhaul_gpuhealth.domain.burnin import BurnIn
from longhaul_gpuhealth.domain.model import Finding, GpuVerdict, HealthState, Remedy

WEEK_SECONDS = 7 * 86400.0


class Origin(StrEnum):
    """Who wanted a quarantine."""

    VERDICT = "verdict"
    OPERATOR = "operator"
    OVERRIDE = "override"


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A decision to take a node out. `marked`: the cluster carries the marks of this session."""

    session: str
    origin: Origin
    since: float
    cause: str
    by: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """A request to whoever runs work on the node, of the same session as the quarantine."""

    session: str
    requested_at: float
    computes: bool
    cause: str
    acknowledged_at: float | None = None
    acknowledged_by: str = ""
    acknowledgement: str = ""


class RepairStage(StrEnum):
    """How far a node is on its way back."""

    DRAINING = "draining"
    REPAIRING = "repairing"
    TESTING = "testing"
    HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Repair:
    """What is done to bring a quarantined node back, under the quarantine's session. `message`: why a person must."""

    session: str
    stage: RepairStage
    since: float
    remedy: Remedy
    message: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's word against the verdict, until a time (None: until it is taken back)."""

    state: HealthState
    reason: str
    author: str
    expires_at: float | None

    def expired(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a node has its state."""

    code: str
    message: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """All that is kept of a node.

    Attributes:
        node: Its name.
        state: What users see: the verdict, or the decision about it.
        state_since: When the state began.
        reason: Why.
        gpus: Verdict on each GPU.
        findings: Active findings.
        quarantine: The decision to take it out, while it is in force.
        drain: The request that goes with it.
        override: An operator's word.
        repair: What is done to bring it back.
        burn_in: The last burn-in, or the one that is asked for.
        trouble: Why the cluster refuses its marks; it is tried again. Empty: it does not.
        releasing: Session whose marks are still to be taken off the node; empty: none.
        released_session: The last session that was released; marks of it are none that count.
        released_at: When it was last put back; findings from before are forgotten.
        recovering_until: Until when it is watched after that.
        quarantines: Times of the quarantines of the last seven days.
        waiting: Why its quarantine waits; empty: it does not.
        schedulable: Whether the cluster may place work on it.
        opted_out: Whether its label says to leave it alone.
        exporter_url: Where it is scraped; empty: nowhere.
        pool: The pool of nodes that it belongs to; empty: none.
        last_scrape_time: The last scrape when this was written.
        memory: What the engine must know after a restart.
    """

    node: str
    state: HealthState = HealthState.UNKNOWN
    state_since: float = 0.0
    reason: Reason = Reason("NO_SIGNAL")
    gpus: tuple[GpuVerdict, ...] = ()
    findings: tuple[Finding, ...] = ()
    quarantine: Quarantine | None = None
    drain: Drain | None = None
    override: Override | None = None
    repair: Repair | None = None
    burn_in: BurnIn | None = None
    trouble: str = ""
    releasing: str = ""
    released_session: str = ""
    released_at: float | None = None
    recovering_until: float | None = None
    quarantines: tuple[float, ...] = ()
    waiting: str = ""
    schedulable: bool = True
    opted_out: bool = False
    exporter_url: str = ""
    pool: str = ""
    last_scrape_time: float | None = None
    memory: tuple[Mapping[str, Any], ...] = ()

    def recent_quarantines(self, now: float) -> int:
        """Quarantines of the last seven days."""
        return sum(since > now - WEEK_SECONDS for since in self.quarantines)

    @property
    def material(self) -> NodeRecord:
        """The record without what changes with every scrape; only a change of this is worth a write."""
        return replace(
            self,
            gpus=tuple(replace(gpu, signals={}) for gpu in self.gpus),
            findings=tuple(replace(one, last_time=0.0, message="", evidence=()) for one in self.findings),
            reason=replace(self.reason, message="") if self.quarantine is None else self.reason,
            last_scrape_time=None,
            memory=(),
        )


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something to be told: becomes an event of the node."""

    type: str
    cause: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the cluster says about a node now.

    `session`: of the quarantine marks it carries; empty: none of ours. `idle`: no pod holds a GPU of it.
    """

    schedulable: bool
    opted_out: bool
    session: str
    exporter_url: str
    idle: bool = False
    pool: str = ""
