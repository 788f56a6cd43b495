"""Decisions about a node: what to do, given its record, its verdict and the cluster's facts. Pure and level-based.

`decide` may be called at any time and as often as wanted: with nothing new it changes nothing. It never acts: it
writes into the record what shall be done (`Quarantine.marked` False, `releasing`), and whoever acts reports back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from longhaul_gpuhealth.domain.budget import Budget, Fleet, Refusal
from longhaul_gpuhealth.domain.model import Finding, HealthState, NodeVerdict
from longhaul_gpuhealth.domain.record import NodeFacts, NodeRecord, Occurrence, Origin, Reason
from longhaul_gpuhealth.domain.repair import Step, next_step
from longhaul_gpuhealth.domain.verbs import (
    SERVICE_AUTHOR,
    Decision,
    Policy,
    move,
    orders,
    quarantine_reason,
    release,
    take_out,
)

DRY_RUN = "DRY_RUN"
OPTED_OUT = "OPTED_OUT"


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision is made of, beside the record. `session` names the quarantine, should one begin."""

    verdict: NodeVerdict
    facts: NodeFacts
    fleet: Fleet
    now: float
    session: str


def decide(record: NodeRecord, budget: Budget, situation: Situation, policy: Policy) -> Decision:
    """What follows from the situation."""
    step = _Step(record, budget, situation, policy, [])
    step.end_override()
    step.take_facts()
    step.take_findings()
    step.heed_removed_marks()
    step.release_what_no_longer_holds()
    step.take_out_what_must_go()
    step.advance_repair()
    step.settle_state()
    return Decision(step.record, step.budget, tuple(step.told))


@dataclass(slots=True)
class _Step:
    record: NodeRecord
    budget: Budget
    situation: Situation
    policy: Policy
    told: list[Occurrence]

    def end_override(self) -> None:
        override = self.record.override
        if override is not None and override.expired(self.situation.now):
            self.record = replace(self.record, override=None)
            self.told.append(Occurrence("OVERRIDE_ENDED", "EXPIRED", f"the override by {override.author} is over"))

    def take_facts(self) -> None:
        facts = self.situation.facts
        self.record = replace(
            self.record,
            schedulable=facts.schedulable,
            opted_out=facts.opted_out,
            exporter_url=facts.exporter_url,
            pool=facts.pool,
        )

    def take_findings(self) -> None:
        verdict = self.situation.verdict
        for finding in _new(verdict.findings, self.record.findings):
            type_ = "SHADOW_RULE_FIRED" if finding.shadow else "RULE_FIRED"
            self.told.append(Occurrence(type_, finding.rule, finding.message, {"gpu": finding.gpu}))
        for finding in _new(self.record.findings, verdict.findings):
            self.told.append(Occurrence("RULE_CLEARED", finding.rule, finding.message, {"gpu": finding.gpu}))
        self.record = replace(
            self.record,
            findings=verdict.findings,
            gpus=verdict.gpus,
            last_scrape_time=verdict.last_scrape_time,
        )

    def heed_removed_marks(self) -> None:
        """Someone else took our marks off: that is a release by hand, not a reason to mark again.

        Marks of a session that was released already were put on by a replica that woke up late: off with them.
        """
        current = self.record.quarantine
        late = self.situation.facts.session
        if current is None and late and late == self.record.released_session and not self.record.releasing:
            self.record = replace(self.record, releasing=late)
            self.told.append(Occurrence("LATE_MARKS", "STALE_SESSION", f"marks of the released session {late}"))
            return
        if current is None or not current.marked or self.situation.facts.session == current.session:
            return
        decision = release(
            self.record,
            self.budget,
            self.policy,
            now=self.situation.now,
            reason="its marks were removed from the node",
            by="someone at the cluster",
        )
        self._adopt(replace(decision, record=replace(decision.record, releasing="")))

    def release_what_no_longer_holds(self) -> None:
        current, override = self.record.quarantine, self.record.override
        if current is None:
            return
        if orders(override, HealthState.HEALTHY):
            assert override is not None
            reason, by = f"override: {override.reason}", override.author
        elif current.origin is Origin.OVERRIDE and override is None:
            reason, by = "the override is over", SERVICE_AUTHOR
        else:
            return
        self._adopt(release(self.record, self.budget, self.policy, now=self.situation.now, reason=reason, by=by))

    def take_out_what_must_go(self) -> None:
        record, situation = self.record, self.situation
        if record.quarantine is not None or record.releasing:
            return
        wanted = self._wanted()
        if wanted is None:
            if record.waiting:
                self.budget = self.budget.withdraw(record.node)
                self.record = replace(record, waiting="")
            return
        origin, cause, by, computes = wanted
        refusal = self._refusal(origin)
        if refusal:
            if record.waiting != refusal:
                message = f"not quarantined ({refusal}): {cause}"
                self.told.append(Occurrence("QUARANTINE_WITHHELD", refusal, message))
            self.record = replace(record, waiting=refusal)
            return
        self._adopt(
            take_out(
                record, self.budget, self.policy, situation.now, situation.session, origin, cause, by, computes=computes
            )
        )

    def _wanted(self) -> tuple[Origin, str, str, bool] | None:
        """Why the node must go, on whose word, and whether its GPUs still compute."""
        override = self.record.override
        if orders(override, HealthState.QUARANTINED):
            assert override is not None
            return Origin.OVERRIDE, override.reason, override.author, True
        if orders(override, HealthState.HEALTHY):
            return None
        burn_in = self.record.burn_in
        if burn_in is not None and burn_in.reported_at is not None and not burn_in.passed:
            return Origin.VERDICT, f"its burn-in failed: {burn_in.message}", SERVICE_AUTHOR, True
        idle = self.situation.facts.idle
        causes = [one for one in self.record.findings if one.takes_node_out and (idle or not one.when_idle)]
        if not causes:
            return None
        cause = f"{causes[0].message} (rule {causes[0].rule})"
        return Origin.VERDICT, cause, SERVICE_AUTHOR, all(finding.computes for finding in causes)

    def _refusal(self, origin: Origin) -> str:
        """Why it may not be done now; asks the budget last, since asking counts."""
        if self.record.opted_out:
            return OPTED_OUT
        if self.policy.dry_run:
            return DRY_RUN
        was_open = self.budget.breaker_opened_at is not None
        settling = self.situation.verdict.settling if origin is Origin.VERDICT else ""
        self.budget, refusal = self.budget.ask(
            self.policy.budget, self.record.node, self.situation.fleet, self.situation.now, settling=bool(settling)
        )
        if refusal is Refusal.BREAKER_OPEN and not was_open:
            message = f"{len(self.budget.demands)} of {self.situation.fleet.nodes} nodes were to go within one window"
            self.told.append(Occurrence("BREAKER_OPENED", refusal, message))
        if refusal is Refusal.SETTLING:
            return settling
        return "" if refusal is None else refusal.value

    def advance_repair(self) -> None:
        now = self.situation.now
        advance = next_step(self.record, self.situation.facts, self.policy.repair, now)
        self.record = advance.record
        self.told.extend(advance.told)
        if advance.step is Step.RELEASE:
            reason = "it was repaired and its burn-in passed" if self.policy.repair.burn_in else "it was repaired"
            self._adopt(release(self.record, self.budget, self.policy, now=now, reason=reason, by=SERVICE_AUTHOR))

    def settle_state(self) -> None:
        record, now = self.record, self.situation.now
        verdict = self.situation.verdict
        if record.quarantine is not None:
            self._move(HealthState.QUARANTINED, quarantine_reason(record.quarantine.cause))
            return
        calm = verdict.state in (HealthState.HEALTHY, HealthState.UNKNOWN)
        if calm and record.recovering_until is not None and now < record.recovering_until:
            self._move(HealthState.RECOVERING, Reason("RELEASED", "watched after its release"))
            return
        if orders(record.override, HealthState.HEALTHY):
            assert record.override is not None
            self._move(HealthState.HEALTHY, Reason("OVERRIDDEN", f"{record.override.author}: {record.override.reason}"))
            return
        self._move(verdict.state, reason_of(verdict, record))

    def _move(self, state: HealthState, reason: Reason) -> None:
        self.record, told = move(self.record, state, reason, self.situation.now)
        self.told.extend(told)

    def _adopt(self, decision: Decision) -> None:
        self.record, self.budget = decision.record, decision.budget
        self.told.extend(decision.occurrences)


def reason_of(verdict: NodeVerdict, record: NodeRecord) -> Reason:
    """Why the verdict is what it is."""
    finding = verdict.worst_finding
    if finding is not None and verdict.state is not HealthState.HEALTHY:
        action = f"its quarantine waits: {record.waiting}" if record.waiting else ""
        return Reason("RULE_FIRED", f"{finding.message} (rule {finding.rule})", action)
    if verdict.state is HealthState.UNKNOWN:
        if not record.exporter_url:
            return Reason("NO_EXPORTER", "the node names no exporter of GPU metrics")
        return Reason("NO_SIGNAL", verdict.scrape_error or "a GPU or its exporter is silent", "look at the exporter")
    return Reason("NO_FINDING")


def _new(findings: Iterable[Finding], known: Iterable[Finding]) -> list[Finding]:
    before = {(finding.rule, finding.gpu) for finding in known}
    return [finding for finding in findings if (finding.rule, finding.gpu) not in before]
