"""State of a data job, its progress, and whether a failed work item is worth another attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from longhaul_core.errors import ErrorCode

from longhaul_corpus.domain.phases import PHASES, SHARE, Phase


class JobState(StrEnum):
    """States of a job; the last three are terminal."""

    QUEUED = "QUEUED"
    WAITING_FOR_INPUTS = "WAITING_FOR_INPUTS"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ACTIVE = frozenset(JobState) - TERMINAL
REPEATABLE = frozenset({JobState.FAILED, JobState.CANCELLED})
"""States in which asking for the same job again starts it anew."""

_PASSING = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.ABORTED})


def worth_retrying(code: ErrorCode, failures: int, maximum: int, *, worker_ended: bool = False) -> bool:
    """Whether an item shall be tried again whose failure number `failures` was of this code, or ended its worker.

    Steps are deterministic: only what comes from outside (a killed worker, a store that does not answer) can pass.
    """
    return (code in _PASSING or worker_ended) and failures < maximum


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """How far a phase is: items, and the share of those under way."""

    done: int = 0
    total: int = 0
    under_way: float = 0.0

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return min((self.done + self.under_way) / self.total, 1.0) if self.total else 1.0


def build_fraction(finished: Sequence[Phase], current: Phase, progress: PhaseProgress) -> float:
    """Share of a build's work that is done, 0 to 1, by the measured shares of its phases."""
    return min(sum(SHARE[phase] for phase in finished) + SHARE[current] * progress.fraction, 1.0)


def remaining_seconds(elapsed_seconds: float, fraction: float) -> float | None:
    """Estimate of the time left, None while too little is done to tell."""
    if fraction < 0.02 or elapsed_seconds <= 0:
        return None
    return elapsed_seconds * (1 - fraction) / fraction


def finished_before(phase: Phase) -> tuple[Phase, ...]:
    """Phases before this one."""
    return PHASES[: PHASES.index(phase)]


def under_way(fractions: Mapping[int, float]) -> float:
    """Sum of the reported shares of items that are being worked on."""
    return sum(fractions.values())
