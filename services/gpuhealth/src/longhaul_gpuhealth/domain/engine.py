"""The verdict engine: readings of all nodes in, findings and states out. Pure; time is that of the readings.

Raising is immediate or after the rule's `for`; clearing waits until the rule has not held for its `clear_after`, so
that a signal at the edge does not flap. Findings of latched rules stay until `release`. Cost: about 60 µs for a
healthy node of 8 GPUs under the shipped rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longhaul_gpuhealth.domain.conditions import Conditions
from longhaul_gpuhealth.domain.fleet import Crowd
from longhaul_gpuhealth.domain.memory import CounterMemory, GpuMemory, OpenFinding, XidReport
from longhaul_gpuhealth.domain.model import (
    NODE_LEVEL,
    Finding,
    GpuVerdict,
    HealthAction,
    HealthState,
    NodeVerdict,
    Sample,
    Severity,
    state_of,
    worst,
)
from longhaul_gpuhealth.domain.reading import MAIN_SIGNALS, GpuReading, Reading
from longhaul_gpuhealth.domain.rules import Codes, Increase, Repeats, Rule, RuleSet, describe, duration

CROWD_KEPT_SECONDS = 25 * 3600.0


@dataclass(slots=True)
class NodeMemory:
    """One node."""

    name: str
    last_time: float | None = None
    gpus: dict[int, GpuMemory] = field(default_factory=dict)


@dataclass(slots=True)
class Engine:
    """Judges all nodes by one rule set. `silence_seconds`: a node or GPU unheard for longer is UNKNOWN."""

    rules: RuleSet
    silence_seconds: float
    _nodes: dict[str, NodeMemory] = field(default_factory=dict)
    _conditions: Conditions = field(default_factory=Conditions)
    _crowds: dict[str, Crowd] = field(default_factory=dict)
    _by_code: dict[int, list[Rule]] = field(default_factory=dict)
    _repeats: list[Rule] = field(default_factory=list)
    _continuous: list[Rule] = field(default_factory=list)
    _counters: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.use_rules(self.rules)

    def use_rules(self, rules: RuleSet) -> None:
        """Put other rules in force; findings of rules that are gone end, memory stays."""
        self.rules = rules
        self._by_code, self._repeats, self._continuous, self._counters = {}, [], [], {}
        for rule in rules.rules:
            for when in (rule.when, *(when for _, when in rule.overrides)):
                self._index(rule, when)
            if not isinstance(rule.when, Codes | Repeats):
                self._continuous.append(rule)
        known = {rule.id for rule in rules.rules}
        for node in self._nodes.values():
            for gpu in node.gpus.values():
                gpu.open = {rule_id: finding for rule_id, finding in gpu.open.items() if rule_id in known}

    def _index(self, rule: Rule, when: object) -> None:
        if isinstance(when, Codes):
            for code in when.codes:
                self._by_code.setdefault(code, []).append(rule)
        elif isinstance(when, Repeats):
            self._repeats.append(rule)
        elif isinstance(when, Increase):
            for signal in when.signals:
                self._counters[signal] = max(when.window_seconds, self._counters.get(signal, 0.0))

    def observe(self, reading: Reading) -> bool:
        """Take the reading of one node; False when it is not newer than the last and was ignored."""
        node = self._nodes.setdefault(reading.node, NodeMemory(reading.node))
        if node.last_time is not None and reading.time <= node.last_time:
            return False
        node.last_time = reading.time
        for index, gpu in reading.gpus.items():
            memory = node.gpus.get(index)
            if memory is None or (gpu.uuid and memory.uuid and gpu.uuid != memory.uuid):
                memory = node.gpus[index] = GpuMemory(index)  # another card in the slot has another past
            memory.uuid, memory.model = gpu.uuid or memory.uuid, gpu.model or memory.model
            memory.last_seen = reading.time
            self._observe_gpu(node, memory, gpu, reading.time)
        return True

    def _observe_gpu(self, node: NodeMemory, memory: GpuMemory, gpu: GpuReading, time: float) -> None:
        signals = gpu.signals
        memory.shown = {short: signals[name] for name, short in MAIN_SIGNALS.items() if name in signals}
        self._advance_counters(memory, signals, time)
        for report in memory.xids(gpu):
            for rule in self._by_code.get(report.code, ()):
                self._report_xid(node, memory, rule, report, time)
        for rule in self._continuous:
            held, samples = self._conditions.evaluate(node.name, memory, rule, signals, time)
            if held:
                self._hold(memory, rule, samples, time)
            elif held is False:
                memory.holds_since.pop(rule.id, None)
        if memory.open:
            self._clear(node, memory, time)

    def _advance_counters(self, memory: GpuMemory, signals: dict[str, float], time: float) -> None:
        for signal, window in self._counters.items():
            value = signals.get(signal)
            if value is None or value < 0:
                continue
            counter = memory.counters.get(signal)
            if counter is None:
                memory.counters[signal] = CounterMemory(value)
                continue
            if value != counter.last:
                counter.advance(value, time)
            if counter.growth:
                counter.forget_before(time - window)

    def _report_xid(self, node: NodeMemory, memory: GpuMemory, rule: Rule, report: XidReport, time: float) -> None:
        sample = Sample(node.name, memory.index, report.signal, report.value, time, {"xid": str(report.code)})
        where = f"XID {report.code} on GPU {memory.index}"
        if not report.age_known:
            self._open_undated(memory, rule, sample, where)
            return
        memory.occurred(rule.id, time, report.times)
        self._crowd(rule.id).add(time, (node.name, memory.index))
        self._open(memory, rule, where, (sample,), time)
        for repeats in self._repeats:
            assert isinstance(repeats.when, Repeats)
            if rule.id not in repeats.when.of:
                continue
            times = self._count(memory, repeats.when, time)
            if times >= repeats.when.at_least:
                span = duration(repeats.when.window_seconds)
                self._open(memory, repeats, f"{where}, {times} times in {span}", (sample,), time)

    def _open_undated(self, memory: GpuMemory, rule: Rule, sample: Sample, where: str) -> None:
        """A code that was there when watching began warns, whatever its rule says: the fault may be long repaired."""
        if rule.severity is Severity.INFO or rule.id in memory.open:
            return
        memory.open[rule.id] = OpenFinding(
            rule,
            self.rules.version,
            Severity.WARNING,
            min(rule.action, HealthAction.DIAGNOSE),
            f"{where}, reported before it was watched; its age is unknown",
            sample.time,
            sample.time,
            [sample],
        )

    def _hold(self, memory: GpuMemory, rule: Rule, samples: Sequence[Sample], time: float) -> None:
        if rule.id not in memory.open:
            memory.occurred(rule.id, time, 1)
        first = samples[0]
        subject = "the node" if memory.index == NODE_LEVEL else f"GPU {memory.index}"
        when = rule.condition_for(memory.model)
        message = f"{first.signal} of {subject} is {first.value:g} ({describe(when)})"
        self._open(memory, rule, message, samples, time)

    def _open(self, memory: GpuMemory, rule: Rule, message: str, samples: Sequence[Sample], time: float) -> None:
        finding = memory.open.get(rule.id)
        if finding is None or finding.severity < rule.severity:
            finding = OpenFinding(rule, self.rules.version, rule.severity, rule.action, message, time, time)
            memory.open[rule.id] = finding
        finding.add(samples, time)

    def _clear(self, node: NodeMemory, memory: GpuMemory, time: float) -> None:
        for rule_id, finding in list(memory.open.items()):
            rule = finding.rule
            if rule.latched and finding.severity is rule.severity:
                continue
            when = rule.condition_for(memory.model)
            if isinstance(when, Repeats):
                if self._count(memory, when, time) < when.at_least:
                    del memory.open[rule_id]
                continue
            patience = when.hold_seconds if isinstance(when, Codes) else rule.clear_seconds
            if time - finding.last_time >= patience:
                del memory.open[rule_id]

    def _count(self, memory: GpuMemory, when: Repeats, time: float) -> int:
        """Occurrences within the window that no crowd shared."""
        total = 0
        for rule_id in when.of:
            crowd = self._crowd(rule_id)
            for occurred in memory.occurrences.get(rule_id, ()):
                shared = when.crowd_gpus and crowd.size_around(occurred, when.crowd_seconds) >= when.crowd_gpus
                total += occurred > time - when.window_seconds and not shared
        return total

    def _crowd(self, rule_id: str) -> Crowd:
        return self._crowds.setdefault(rule_id, Crowd(CROWD_KEPT_SECONDS))

    def release(self, node: str) -> None:
        """Forget what is held against a node; what still holds is found again at the next reading."""
        for gpu in self._memories(node):
            gpu.open.clear()
            gpu.holds_since.clear()

    def forget(self, node: str) -> None:
        """The node is no longer part of the cluster."""
        self._nodes.pop(node, None)

    def heard(self, node: str) -> float | None:
        """When the node was last read."""
        memory = self._nodes.get(node)
        return None if memory is None else memory.last_time

    def findings(self, node: str) -> tuple[Finding, ...]:
        """Active findings of a node, the furthest-going first."""
        found = [finding.close(gpu.index, gpu.uuid) for gpu in self._memories(node) for finding in gpu.open.values()]
        return tuple(sorted(found, key=lambda one: (-one.action, -one.severity, one.gpu, one.rule)))

    def verdict(self, node: str, now: float, scrape_error: str = "") -> NodeVerdict:
        """What the readings say about a node at `now`."""
        heard = self.heard(node)
        silent = heard is None or now - heard > self.silence_seconds
        gpus = tuple(self._judge(gpu, now) for gpu in self._memories(node) if gpu.is_gpu)
        findings = self.findings(node)
        whole = [state_of(one.severity) for one in findings if one.gpu == NODE_LEVEL and not one.shadow]
        state = worst(HealthState.UNKNOWN if silent else HealthState.HEALTHY, *whole, *(gpu.state for gpu in gpus))
        return NodeVerdict(node, state, gpus, findings, heard, scrape_error)

    def _judge(self, gpu: GpuMemory, now: float) -> GpuVerdict:
        silent = now - gpu.last_seen > self.silence_seconds
        states = [state_of(finding.severity) for finding in gpu.open.values() if not finding.rule.shadow]
        state = worst(HealthState.UNKNOWN if silent else HealthState.HEALTHY, *states)
        return GpuVerdict(gpu.index, gpu.uuid, gpu.model, state, dict(gpu.shown))

    def _memories(self, node: str) -> Iterable[GpuMemory]:
        memory = self._nodes.get(node)
        return [] if memory is None else [memory.gpus[index] for index in sorted(memory.gpus)]

    def snapshot(self, node: str) -> list[dict[str, Any]]:
        """What must survive a restart, beside the findings, as JSON."""
        return [gpu.snapshot() for gpu in self._memories(node)]

    def restore(
        self, node: str, snapshot: Iterable[Mapping[str, Any]], findings: Iterable[Finding], heard: float | None
    ) -> None:
        """Take up what another life of this program knew of a node; findings of rules that are gone are dropped.

        `heard` counts as the last reading, so that a restart alone makes no node UNKNOWN; None: it was silent before.
        """
        memory = self._nodes[node] = NodeMemory(node, heard)
        for one in snapshot:
            gpu = GpuMemory.restored(one)
            gpu.last_seen = heard or 0.0
            memory.gpus[gpu.index] = gpu
        for finding in findings:
            rule = self.rules.find(finding.rule)
            if rule is None or finding.gpu not in memory.gpus:
                continue
            memory.gpus[finding.gpu].open[rule.id] = OpenFinding(
                rule,
                finding.rule_version,
                finding.severity,
                finding.action,
                finding.message,
                finding.first_time,
                finding.last_time,
                list(finding.evidence),
            )
