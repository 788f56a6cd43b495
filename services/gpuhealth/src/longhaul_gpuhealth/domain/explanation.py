"""Why a node has its state, in sentences, in order of time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from longhaul_gpuhealth.domain.model import NODE_LEVEL, Finding
from longhaul_gpuhealth.domain.record import NodeRecord, Repair, RepairStage
from longhaul_gpuhealth.domain.rules import RuleSet, describe


def explain(record: NodeRecord, rules: RuleSet) -> list[str]:
    """One sentence a step: samples, rules, decision, what is asked of others, what stands in the way."""
    steps: list[tuple[float, str]] = []
    for finding in record.findings:
        steps += _explain_finding(finding, rules)
    if record.quarantine is not None:
        current = record.quarantine
        marks = "the node carries its marks" if current.marked else "its marks are being put on the node"
        steps.append((current.since, f"{current.by} took the node out ({current.origin}): {current.cause}; {marks}"))
    if record.drain is not None:
        steps += _explain_drain(record)
    if record.repair is not None:
        steps.append((record.repair.since, _explain_repair(record.repair)))
    if record.override is not None:
        until = (
            "until it is taken back"
            if record.override.expires_at is None
            else (f"until {_clock(record.override.expires_at)}")
        )
        text = (
            f"{record.override.author} overrules the verdict {until}: {record.override.state}, {record.override.reason}"
        )
        steps.append((record.state_since, text))
    if record.trouble:
        steps.append((record.state_since, f"the cluster refuses its marks, which is tried again: {record.trouble}"))
    if record.waiting:
        steps.append((record.state_since, f"the node should be out, but is not: {record.waiting}"))
    since = "" if not record.state_since else f" since {_clock(record.state_since)}"
    detail = record.reason.message or record.reason.code
    ordered = [f"{_clock(time)} {text}" for time, text in sorted(steps, key=lambda step: step[0])]
    return [*ordered, f"so the node is {record.state}{since}: {detail}"]


def _explain_finding(finding: Finding, rules: RuleSet) -> list[tuple[float, str]]:
    subject = "the node" if finding.gpu == NODE_LEVEL else f"GPU {finding.gpu} ({finding.gpu_uuid or 'no UUID'})"
    steps = [
        (sample.time, f"{sample.signal} of {subject} was {sample.value:g}{_xid(sample.labels.get('xid'))}")
        for sample in finding.evidence
    ]
    rule = rules.find(finding.rule)
    meaning = "" if rule is None else f" [{describe(rule.when)}] {rule.description}"
    shadow = " It is a shadow rule and has no effect." if finding.shadow else ""
    steps.append(
        (
            finding.first_time,
            f"rule {finding.rule} of {finding.rule_version} fired: {finding.severity.name.lower()}, "
            f"action {finding.action.name.lower()}.{meaning}{shadow}",
        )
    )
    return steps


def _explain_drain(record: NodeRecord) -> list[tuple[float, str]]:
    drain = record.drain
    assert drain is not None
    how = "by checkpoint" if drain.computes else "at once, since the GPU no longer computes"
    steps = [(drain.requested_at, f"work was asked to leave {how} (session {drain.session})")]
    if drain.acknowledged_at is not None:
        said = drain.acknowledgement or "done"
        steps.append((drain.acknowledged_at, f"{drain.acknowledged_by} acknowledged the drain: {said}"))
    return steps


def _explain_repair(repair: Repair) -> str:
    remedy = repair.remedy.name.lower()
    said = {
        RepairStage.DRAINING: "its repair waits until work has left",
        RepairStage.REPAIRING: f"a {remedy} is under way",
        RepairStage.TESTING: "a burn-in tests it",
        RepairStage.HUMAN: "a person must look",
    }
    return said[repair.stage] + (f": {repair.message}" if repair.message else "")


def _xid(code: str | None) -> str:
    return "" if code is None else f" (XID {code})"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
