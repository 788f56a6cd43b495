"""What a rule set would have done with recorded samples: same engine, decisions and budget, on their time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from longhaul_gpuhealth.domain.budget import Budget, Fleet
from longhaul_gpuhealth.domain.decision import Situation, decide
from longhaul_gpuhealth.domain.engine import Engine
from longhaul_gpuhealth.domain.model import Finding, HealthState, Sample
from longhaul_gpuhealth.domain.reading import XID_COUNT, GpuReading, Reading
from longhaul_gpuhealth.domain.record import NodeFacts, NodeRecord, Occurrence
from longhaul_gpuhealth.domain.rules import RuleSet
from longhaul_gpuhealth.domain.verbs import Policy


@dataclass(slots=True)
class Replay:
    """Outcome: every finding that fired, the last state of each node, the nodes taken out in order."""

    findings: list[Finding] = field(default_factory=list)
    states: dict[str, HealthState] = field(default_factory=dict)
    quarantined: list[str] = field(default_factory=list)
    occurrences: list[tuple[float, str, Occurrence]] = field(default_factory=list)


def replay(
    samples: Sequence[Sample], rules: RuleSet, policy: Policy, *, silence_seconds: float, nodes: int = 0
) -> Replay:
    """Run samples, in order of time, through `rules` in an imagined cluster of `nodes` (0: those in the samples)."""
    engine = Engine(rules, silence_seconds)
    records: dict[str, NodeRecord] = {}
    budget = Budget()
    outcome = Replay()
    seen: dict[tuple[str, str, int], Finding] = {}
    total = nodes or len({sample.node for sample in samples})
    for time, node, group in _scrapes(samples):
        engine.observe(_reading(node, time, group))
        verdict = engine.verdict(node, time)
        record = records.get(node) or NodeRecord(node, HealthState.HEALTHY, time)
        session = record.quarantine.session if record.quarantine else ""
        facts = NodeFacts(record.quarantine is None, opted_out=False, session=session, exporter_url="replay")
        situation = Situation(verdict, facts, Fleet(total), time, f"replay-{node}-{time}")
        decision = decide(record, budget, situation, policy)
        records[node], budget = decision.record, decision.budget
        outcome.occurrences += [(time, node, told) for told in decision.occurrences]
        if decision.record.quarantine is not None and record.quarantine is None:
            outcome.quarantined.append(node)
        for finding in verdict.findings:
            seen[node, finding.rule, finding.gpu] = finding
    outcome.states = {node: record.state for node, record in records.items()}
    outcome.findings = list(seen.values())
    return outcome


def _scrapes(samples: Sequence[Sample]) -> list[tuple[float, str, list[Sample]]]:
    ordered = sorted(samples, key=lambda sample: (sample.time, sample.node))
    return [(time, node, list(group)) for (time, node), group in groupby(ordered, lambda one: (one.time, one.node))]


def _reading(node: str, time: float, samples: Sequence[Sample]) -> Reading:
    gpus: dict[int, GpuReading] = {}
    for sample in samples:
        gpu = gpus.setdefault(sample.gpu, GpuReading())
        gpu.uuid = gpu.uuid or sample.labels.get("UUID", "")
        gpu.model = gpu.model or sample.labels.get("modelName", "")
        xid = sample.labels.get("xid", "")
        if sample.signal == XID_COUNT and xid.isdecimal():
            gpu.xid_counts = {**(gpu.xid_counts or {}), int(xid): sample.value}
        else:
            gpu.signals[sample.signal] = sample.value
    return Reading(node, time, gpus)
