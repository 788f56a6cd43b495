"""Failure budgets: when a run may try again, how soon, and with which repair.

Disruptions are free. A kind's budget bounds its failures over the whole run; a failure that follows another one
without a newer step in between is "without progress": these are bounded more tightly, wait longer each time, and
escalate from process to pod to node, since a restart that helped nobody will not help the third time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from longhaul_training.domain.causes import Cause, Kind
from longhaul_training.domain.observations import Limits
from longhaul_training.domain.states import FailureRecord, RecoveryAction

POD_AFTER = 2
NODE_AFTER = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """Failures of one kind that a run survives: in all, and in a row without progress."""

    total: int
    without_progress: int


BUDGETS = {
    Kind.DISRUPTION: Budget(10_000, 50),
    Kind.INFRASTRUCTURE: Budget(1_000, 8),
    Kind.PEER: Budget(1_000, 8),
    Kind.APPLICATION: Budget(20, 3),
    Kind.ANOMALY: Budget(3, 2),
    Kind.FATAL: Budget(0, 0),
}


def record_failure(record: FailureRecord, cause: Cause, step: int) -> FailureRecord:
    """Counts a failure that happened when `step` was the highest step ever made."""
    counts = dict(record.by_cause)
    counts[cause.name] = counts.get(cause.name, 0) + 1
    stuck = bool(record.by_cause) and step <= record.last_step
    return replace(
        record,
        by_cause=tuple(sorted(counts.items())),
        without_progress=record.without_progress + 1 if stuck else 1,
        last_step=step,
    )


def exhausted(record: FailureRecord, cause: Cause, causes_of_kind: frozenset[str]) -> bool:
    """Whether the failure that was just recorded is one more than the budget of its kind allows."""
    budget = BUDGETS[cause.kind]
    total = sum(count for name, count in record.by_cause if name in causes_of_kind)
    return total > budget.total or record.without_progress > budget.without_progress


def backoff_seconds(record: FailureRecord, limits: Limits) -> float:
    """Wait before the next try: none after progress, then doubling up to the maximum."""
    repeats = record.without_progress - 1
    if repeats <= 0:
        return 0.0
    return min(limits.backoff_maximum, limits.backoff_base * 2.0 ** (repeats - 1))


def escalate(action: RecoveryAction, record: FailureRecord) -> RecoveryAction:
    """The action to take in place of `action` after failures without progress."""
    order = (RecoveryAction.PROCESS, RecoveryAction.POD, RecoveryAction.NODE)
    if action is RecoveryAction.ROLLBACK:
        return action
    floor = RecoveryAction.PROCESS
    if record.without_progress > NODE_AFTER:
        floor = RecoveryAction.NODE
    elif record.without_progress > POD_AFTER:
        floor = RecoveryAction.POD
    return max(action, floor, key=order.index)
