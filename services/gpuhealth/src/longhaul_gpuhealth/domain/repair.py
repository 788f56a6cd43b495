"""From a quarantined node back to a healthy one: drained, repaired by a hook, tested by a burn-in, released. Pure.

Every step is level-based: `next_step` looks at the record and the facts and says at most one change. Whatever cannot
go on by itself ends in HUMAN with the reason, and stays there until somebody releases the node or asks for a burn-in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from longhaul_gpuhealth.domain.burnin import BurnIn
from longhaul_gpuhealth.domain.model import Finding, Remedy
from longhaul_gpuhealth.domain.record import NodeFacts, NodeRecord, Occurrence, Origin, Repair, RepairStage


class Step(StrEnum):
    """What is to be done with the node as a whole after a look at its repair."""

    NOTHING = "nothing"
    FORGET = "forget"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class RepairPolicy:
    """What may be done without a person. `hooks`: remedies that a hook carries out."""

    hooks: frozenset[Remedy] = frozenset()
    burn_in: bool = False
    drain_timeout_seconds: float = 3600.0
    repair_timeout_seconds: float = 1800.0
    burn_in_timeout_seconds: float = 3600.0
    offender_quarantines: int = 5

    @property
    def enabled(self) -> bool:
        """Whether anything happens by itself."""
        return bool(self.hooks) or self.burn_in


@dataclass(frozen=True, slots=True)
class Advance:
    """The record as it shall be, what is to be told, and what else."""

    record: NodeRecord
    told: tuple[Occurrence, ...] = ()
    step: Step = Step.NOTHING


def remedy_of(findings: tuple[Finding, ...]) -> Remedy:
    """The furthest-going remedy of what takes the node out."""
    return max((one.remedy for one in findings if one.takes_node_out), default=Remedy.NONE)


def next_step(record: NodeRecord, facts: NodeFacts, policy: RepairPolicy, now: float) -> Advance:
    """One step of the repair of a quarantined node."""
    quarantine = record.quarantine
    if quarantine is None or not policy.enabled or not quarantine.marked:
        return Advance(record)
    repair = record.repair
    if repair is None or repair.session != quarantine.session:
        if quarantine.origin is not Origin.VERDICT:
            return Advance(record)
        begun = Repair(quarantine.session, RepairStage.DRAINING, now, remedy_of(record.findings))
        return Advance(replace(record, repair=begun))
    match repair.stage:
        case RepairStage.DRAINING:
            return _drained(record, repair, facts, policy, now)
        case RepairStage.REPAIRING if now - repair.since > policy.repair_timeout_seconds:
            return _call_human(record, f"the hook did not finish within {policy.repair_timeout_seconds:g} s", now)
        case RepairStage.TESTING:
            return _tested(record, repair, policy, now)
        case _:
            return Advance(record)


def repaired(record: NodeRecord, session: str, policy: RepairPolicy, now: float) -> Advance:
    """The hook has done its work: old findings are forgotten, the burn-in decides."""
    repair = record.repair
    if repair is None or repair.session != session or repair.stage is not RepairStage.REPAIRING:
        return Advance(record)
    told = Occurrence("REPAIRED", repair.remedy.name, f"{repair.remedy.name.lower()} of the node is done")
    if not policy.burn_in:
        return Advance(record, (told,), Step.RELEASE)
    return replace(_test(record, repair, now), told=(told,))


def repair_failed(record: NodeRecord, session: str, message: str, now: float) -> Advance:
    """The hook said that it cannot."""
    repair = record.repair
    if repair is None or repair.session != session or repair.stage is not RepairStage.REPAIRING:
        return Advance(record)
    return _call_human(record, f"the hook failed: {message}", now)


def request_burn_in(record: NodeRecord, session: str, author: str, now: float) -> NodeRecord:
    """Ask training for a burn-in; while one is asked for, asking again changes nothing."""
    if record.burn_in is not None and record.burn_in.reported_at is None:
        return record
    asked = replace(record, burn_in=BurnIn(session, now, author))
    if record.quarantine is None or record.repair is None:
        return asked
    return replace(asked, repair=replace(record.repair, stage=RepairStage.TESTING, since=now, message=""))


def _drained(record: NodeRecord, repair: Repair, facts: NodeFacts, policy: RepairPolicy, now: float) -> Advance:
    if len(record.quarantines) >= policy.offender_quarantines:
        return _call_human(record, f"quarantined {len(record.quarantines)} times in seven days", now)
    acknowledged = record.drain is not None and record.drain.acknowledged_at is not None
    if not acknowledged and not facts.idle:
        if now - repair.since > policy.drain_timeout_seconds:
            return _call_human(record, f"work did not leave within {policy.drain_timeout_seconds:g} s", now)
        return Advance(record)
    if repair.remedy is Remedy.NONE:
        if any(finding.takes_node_out for finding in record.findings):
            return Advance(record)
        return _test(record, repair, now) if policy.burn_in else Advance(record, (), Step.RELEASE)
    if repair.remedy not in policy.hooks:
        return _call_human(record, f"no hook does a {repair.remedy.name.lower()}", now)
    begun = replace(repair, stage=RepairStage.REPAIRING, since=now)
    told = Occurrence("REPAIR_BEGUN", repair.remedy.name, f"{repair.remedy.name.lower()} of the node is asked for")
    return Advance(replace(record, repair=begun), (told,))


def _test(record: NodeRecord, repair: Repair, now: float) -> Advance:
    testing = replace(repair, stage=RepairStage.TESTING, since=now)
    burn_in = BurnIn(repair.session, now, "gpuhealth")
    return Advance(replace(record, repair=testing, burn_in=burn_in, released_at=now, findings=()), (), Step.FORGET)


def _tested(record: NodeRecord, repair: Repair, policy: RepairPolicy, now: float) -> Advance:
    burn_in = record.burn_in
    if burn_in is None or burn_in.reported_at is None:
        if now - repair.since > policy.burn_in_timeout_seconds:
            return _call_human(record, f"no burn-in was reported within {policy.burn_in_timeout_seconds:g} s", now)
        return Advance(record)
    if not burn_in.passed:
        return _call_human(record, f"the burn-in failed: {burn_in.message}", now)
    bad = next((one for one in record.findings if one.takes_node_out), None)
    if bad is not None:
        return _call_human(record, f"after the repair: {bad.message}", now)
    return Advance(record, (), Step.RELEASE)


def _call_human(record: NodeRecord, message: str, now: float) -> Advance:
    assert record.repair is not None
    waiting = replace(record.repair, stage=RepairStage.HUMAN, since=now, message=message)
    return Advance(replace(record, repair=waiting), (Occurrence("HUMAN_NEEDED", "REPAIR", message),))
