"""What is remembered of a checkup of a run's nodes: which pods were checked together, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckupPurpose(StrEnum):
    """Why nodes are checked."""

    PREFLIGHT = "PREFLIGHT"
    DIAGNOSIS = "DIAGNOSIS"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the checklist of a node; `value` is in the unit that the message names."""

    node: str
    check: str
    passed: bool
    message: str
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one rank found on its pod in a check of `epoch`. `alone` are findings that need no comparison."""

    pod: str
    epoch: int
    rank: int
    device: str = "cpu"
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkup:
    """Pods are being checked in groups of slots, the second round with other partners.

    `suspects` are the slots that the first round left in doubt.
    """

    purpose: CheckupPurpose
    round: int
    groups: tuple[tuple[int, ...], ...]
    since: float
    suspects: tuple[int, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Accusation:
    """A node that checks found faulty and that gpuhealth does not know of yet; `key` makes the report idempotent."""

    node: str
    message: str
    key: str


@dataclass(frozen=True, slots=True)
class AccusedNode:
    """A node that checks of this run found faulty at `at`; the run keeps away from it whatever gpuhealth decides."""

    node: str
    at: float
