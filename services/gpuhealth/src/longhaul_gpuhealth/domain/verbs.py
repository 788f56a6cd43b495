"""What can be done with a node: take it out, put it back, acknowledge its drain. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from longhaul_gpuhealth.domain.budget import Budget, BudgetPolicy
from longhaul_gpuhealth.domain.burnin import BurnIn
from longhaul_gpuhealth.domain.model import HealthState
from longhaul_gpuhealth.domain.record import (
    WEEK_SECONDS,
    Drain,
    NodeRecord,
    Occurrence,
    Origin,
    Override,
    Quarantine,
    Reason,
)
from longhaul_gpuhealth.domain.repair import RepairPolicy

SERVICE_AUTHOR = "gpuhealth"


@dataclass(frozen=True, slots=True)
class Policy:
    """How decisions are made. `offender_quarantines`: from this many in seven days on, a person must look."""

    budget: BudgetPolicy = field(default_factory=BudgetPolicy)
    dry_run: bool = False
    recovery_seconds: float = 60.0
    offender_quarantines: int = 5
    repair: RepairPolicy = field(default_factory=RepairPolicy)


@dataclass(frozen=True, slots=True)
class Decision:
    """Record and budget as they shall be, and what is to be told."""

    record: NodeRecord
    budget: Budget
    occurrences: tuple[Occurrence, ...] = ()


def quarantine(
    record: NodeRecord, budget: Budget, policy: Policy, *, now: float, session: str, cause: str, by: str
) -> Decision:
    """An operator takes a node out, as the budget allowed."""
    if record.quarantine is not None:
        return Decision(record, budget)
    return take_out(record, budget, policy, now, session, Origin.OPERATOR, cause, by, computes=True)


def release(record: NodeRecord, budget: Budget, policy: Policy, *, now: float, reason: str, by: str) -> Decision:
    """A node is put back: its marks are to be taken off, its findings are forgotten."""
    budget = budget.withdraw(record.node)
    if record.quarantine is None:
        return Decision(record, budget)
    changed = replace(
        record,
        quarantine=None,
        drain=None,
        repair=None,
        burn_in=_kept(record),
        waiting="",
        findings=(),
        releasing=record.quarantine.session,
        released_session=record.quarantine.session,
        released_at=now,
        recovering_until=now + policy.recovery_seconds,
        override=None if orders(record.override, HealthState.QUARANTINED) else record.override,
    )
    message = f"released by {by}: {reason}"
    changed, told = move(changed, HealthState.RECOVERING, Reason("RELEASED", message), now)
    return Decision(changed, budget, (Occurrence("RELEASED", "OPERATOR", message), *told))


def _kept(record: NodeRecord) -> BurnIn | None:
    """A good result is kept for peers to be compared with; a bad one is answered by the release."""
    return record.burn_in if record.burn_in is not None and record.burn_in.passed else None


def acknowledge(record: NodeRecord, *, now: float, by: str, message: str) -> NodeRecord:
    """Whoever ran work on the node says what became of the drain request; the first word stands."""
    if record.drain is None or record.drain.acknowledged_at is not None:
        return record
    return replace(
        record, drain=replace(record.drain, acknowledged_at=now, acknowledged_by=by, acknowledgement=message)
    )


def take_out(
    record: NodeRecord,
    budget: Budget,
    policy: Policy,
    now: float,
    session: str,
    origin: Origin,
    cause: str,
    by: str,
    *,
    computes: bool,
) -> Decision:
    """Begin a quarantine and ask for a drain, under one session."""
    recent = tuple(since for since in record.quarantines if since > now - WEEK_SECONDS)
    changed = replace(
        record,
        quarantine=Quarantine(session, origin, now, cause, by),
        drain=Drain(session, now, computes, cause),
        waiting="",
        recovering_until=None,
        quarantines=(*recent, now),
    )
    told = [
        Occurrence("QUARANTINED", origin.upper(), cause, {"session": session, "by": by}),
        Occurrence("DRAIN_REQUESTED", origin.upper(), cause, {"session": session, "computes": computes}),
    ]
    if len(changed.quarantines) >= policy.offender_quarantines:
        message = f"quarantined {len(changed.quarantines)} times in seven days"
        told.append(Occurrence("REPEAT_OFFENDER", "HUMAN", message))
    changed, moved = move(changed, HealthState.QUARANTINED, quarantine_reason(cause), now)
    return Decision(changed, budget, (*told, *moved))


def quarantine_reason(cause: str) -> Reason:
    """Why a node is QUARANTINED."""
    return Reason("QUARANTINED", cause, "repair and release it")


def move(
    record: NodeRecord, state: HealthState, reason: Reason, now: float
) -> tuple[NodeRecord, tuple[Occurrence, ...]]:
    """The record in `state`, and what is to be told of it; when it began changes only with the state."""
    if state is record.state:
        return replace(record, reason=reason), ()
    message = f"{record.state} -> {state}: {reason.message or reason.code}"
    told = Occurrence("STATE_CHANGED", reason.code, message, {"from": record.state, "to": state})
    return replace(record, state=state, state_since=now, reason=reason), (told,)


def orders(override: Override | None, state: HealthState) -> bool:
    """Whether an operator's word asks for that state."""
    return override is not None and override.state is state
