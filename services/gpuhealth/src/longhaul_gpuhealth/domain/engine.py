"""The verdict engine: readings of all nodes in, findings and states out. Pure; time is that of the readings.

Raising is immediate or after the rule's `for`; clearing waits until the rule has not held for its `clear_after`, so
that a signal at the edge does not flap. Findings of latched rules stay until `release`. Cost: about 60 µs for a
healthy node of 8 GPUs under the shipped rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longhaul_gpuhealth.domain.conditions import Conditions
from longhaul_gpuhealth.domain.exchange import PeerSummary
from longhaul_gpuhealth.domain.memory import GpuMemory, OpenFinding, XidReport
from longhaul_gpuhealth.domain.model import (
    NODE_LEVEL,
    Finding,
    GpuVerdict,
    HealthAction,
    HealthState,
    Job,
    NodeVerdict,
    Sample,
    Severity,
    state_of,
    worst,
)
from longhaul_gpuhealth.domain.node_memory import NodeMemory
from longhaul_gpuhealth.domain.reading import MAIN_SIGNALS, XID_COUNT, GpuReading, Reading
from longhaul_gpuhealth.domain.repeats import RepeatWatch
from longhaul_gpuhealth.domain.rule_index import RuleIndex
from longhaul_gpuhealth.domain.rules import (
    Codes,
    Marked,
    MarkKind,
    Missing,
    Repeats,
    Rule,
    RuleSet,
    describe,
    duration,
)

GPU_MISSING = "LONGHAUL_GPU_MISSING_SECONDS"
NODE_MARK = "LONGHAUL_NODE_MARK"
RULES_CHANGED = "RULES_CHANGED"
DRIVER_CHANGED = "DRIVER_CHANGED"


@dataclass(slots=True)
class Engine:
    """Judges all nodes by one rule set.

    Attributes:
        rules: The rules in force.
        silence_seconds: A node or GPU unheard for longer is UNKNOWN.
        rules_settle_seconds: After other rules came into force, so that a bad rule is seen whole before it acts.
        driver_settle_seconds: After a node's driver changed, for the same reason.
    """

    rules: RuleSet
    silence_seconds: float
    rules_settle_seconds: float = 0.0
    driver_settle_seconds: float = 0.0
    _nodes: dict[str, NodeMemory] = field(default_factory=dict)
    _conditions: Conditions = field(default_factory=Conditions)
    _repeats: RepeatWatch = field(default_factory=RepeatWatch)
    _index: RuleIndex = field(default_factory=RuleIndex)
    _rules_changed_at: float | None = None

    def __post_init__(self) -> None:
        self.use_rules(self.rules)

    def use_rules(self, rules: RuleSet, time: float | None = None) -> None:
        """Put other rules in force at `time`; findings of rules that are gone or others now end, memory stays."""
        self.rules = rules
        self._rules_changed_at = time
        self._index = RuleIndex.of(rules)
        self._repeats.use_rules(self._index.repeats)
        known = {rule.id: rule for rule in rules.rules}
        for node in self._nodes.values():
            for gpu in node.gpus.values():
                gpu.open = {key: finding for key, finding in gpu.open.items() if known.get(key) == finding.rule}

    def observe(self, reading: Reading) -> bool:
        """Take the reading of one node; False when it is not newer than the last and was ignored."""
        node = self._nodes.setdefault(reading.node, NodeMemory(reading.node))
        if node.last_time is not None and reading.time <= node.last_time:
            return False
        node.begin(reading)
        for index, gpu in reading.gpus.items():
            self._observe_gpu(node, node.gpu(index, gpu, reading.time), gpu, reading.time)
        if self._index.missing and len(reading.gpus) <= len(node.gpus):
            self._look_for_missing(node, reading)
        return True

    def observe_marks(self, name: str, conditions: Sequence[str], taints: Sequence[str], time: float) -> None:
        """Take the marks that other programs put on a node, as texts that `Marked` can match."""
        if not self._index.marked:
            return
        node = self._nodes.setdefault(name, NodeMemory(name))
        memory = node.gpus.get(NODE_LEVEL)
        for rule in self._index.marked:
            assert isinstance(rule.when, Marked)
            texts = conditions if rule.when.kind is MarkKind.CONDITION else taints
            found = [text for text in texts if rule.when.matches(text)]
            if found:
                memory = memory or node.gpus.setdefault(NODE_LEVEL, GpuMemory(NODE_LEVEL))
                sample = Sample(name, NODE_LEVEL, NODE_MARK, 1.0, time, {rule.when.kind: found[0]})
                self._open(memory, rule, f"the node has the {rule.when.kind} {', '.join(found)}", (sample,), time)
            elif memory is not None and rule.id in memory.open and not rule.latched:
                del memory.open[rule.id]

    def assign(self, name: str, jobs: Mapping[int, Job]) -> None:
        """Say what uses which GPU of a node now."""
        for gpu in self._memories(name):
            gpu.job = jobs.get(gpu.index)

    def reported_pods(self, name: str) -> dict[int, tuple[str, str] | None]:
        """Namespace and name of the pod on each GPU of a node as its exporter tells; None where it does not."""
        return {gpu.index: gpu.pod for gpu in self._memories(name) if gpu.is_gpu}

    def _look_for_missing(self, node: NodeMemory, reading: Reading) -> None:
        """A GPU whose neighbours still answer is gone; where none answers it is the exporter that is silent."""
        shown = {index for index, gpu in reading.gpus.items() if gpu.signals and index != NODE_LEVEL}
        if not shown:
            return
        for index, memory in node.gpus.items():
            if index in shown or not memory.is_gpu:
                continue
            gone = reading.time - memory.last_seen
            for rule in self._index.missing:
                when = rule.condition_for(memory.model)
                assert isinstance(when, Missing)
                if gone >= when.for_seconds:
                    sample = Sample(node.name, index, GPU_MISSING, gone, reading.time)
                    message = f"GPU {index} is gone from the exporter's pages, which still show {len(shown)} others"
                    self._open(memory, rule, message, (sample,), reading.time)

    def _observe_gpu(self, node: NodeMemory, memory: GpuMemory, gpu: GpuReading, time: float) -> None:
        signals = gpu.signals
        memory.pod = gpu.pod
        memory.shown = {short: signals[name] for name, short in MAIN_SIGNALS.items() if name in signals}
        memory.advance_counters(self._index.counters, signals, time)
        for report in memory.xids(gpu):
            for rule in self._index.by_code.get(report.code, ()):
                self._report_xid(node, memory, rule, report, time)
        for rule in self._index.continuous:
            held, samples = self._conditions.evaluate(node.name, memory, rule, signals, time)
            if held:
                self._hold(memory, rule, samples, time)
            elif held is False:
                memory.holds_since.pop(rule.id, None)
        if memory.occurrences:
            self._look_for_repeats(node, memory, time)
        if memory.open:
            self._clear(node, memory, time)

    def _report_xid(self, node: NodeMemory, memory: GpuMemory, rule: Rule, report: XidReport, time: float) -> None:
        sample = Sample(node.name, memory.index, report.signal, report.value, time, {"xid": str(report.code)})
        where = f"XID {report.code} on GPU {memory.index}"
        if not report.age_known:
            self._open_undated(memory, rule, sample, where)
            return
        memory.occurred(rule.id, time, report.times)
        self._open(memory, rule, where, (sample,), time)
        self._repeats.fired(rule.id, (node.name, memory.index), time)

    def _look_for_repeats(self, node: NodeMemory, memory: GpuMemory, time: float) -> None:
        for rule in self._index.repeats:
            when = rule.when
            assert isinstance(when, Repeats)
            times = self._repeats.count(memory, rule, when, time)
            if times >= when.at_least and rule.id not in memory.open:
                sample = Sample(node.name, memory.index, XID_COUNT, times, time, {"rules": " ".join(when.of)})
                span = duration(when.window_seconds)
                message = f"{' or '.join(when.of)} on GPU {memory.index} {times} times in {span}"
                self._open(memory, rule, message, (sample,), time)

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
                if self._repeats.count(memory, rule, when, time) < when.at_least:
                    del memory.open[rule_id]
                continue
            patience = when.hold_seconds if isinstance(when, Codes) else rule.clear_seconds
            if time - finding.last_time >= patience:
                del memory.open[rule_id]

    def release(self, node: str) -> None:
        """Forget what is held against a node; what still holds is found again at the next reading."""
        memory = self._nodes.get(node)
        if memory is not None:
            memory.release()

    def forget(self, nodes: Collection[str]) -> None:
        """The nodes are no longer part of the cluster, or of what is watched here."""
        for node in nodes:
            self._nodes.pop(node, None)
        self._conditions.forget(nodes)

    def peer_summary(self, time: float) -> PeerSummary:
        """What other replicas should know of the GPUs here."""
        return PeerSummary(self._conditions.summaries(time), self._repeats.summaries(time))

    def hear_peers(self, replica: str, summary: PeerSummary, time: float) -> None:
        """What another replica knows of the GPUs there; they are peers of those here from now on."""
        self._conditions.hear(replica, summary.groups, time)
        self._repeats.hear(replica, summary.crowds, time)

    def forget_stale(self, time: float) -> None:
        """Drop what is kept of groups of peers that ended."""
        self._conditions.forget_stale(time)

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
        return NodeVerdict(node, state, gpus, findings, heard, scrape_error, self._settling(node, now))

    def _settling(self, node: str, now: float) -> str:
        if self._rules_changed_at is not None and now - self._rules_changed_at < self.rules_settle_seconds:
            return RULES_CHANGED
        memory = self._nodes.get(node)
        changed = None if memory is None else memory.driver_changed_at
        return DRIVER_CHANGED if changed is not None and now - changed < self.driver_settle_seconds else ""

    def _judge(self, gpu: GpuMemory, now: float) -> GpuVerdict:
        silent = now - gpu.last_seen > self.silence_seconds
        states = [state_of(finding.severity) for finding in gpu.open.values() if not finding.rule.shadow]
        state = worst(HealthState.UNKNOWN if silent else HealthState.HEALTHY, *states)
        return GpuVerdict(gpu.index, gpu.uuid, gpu.model, state, dict(gpu.shown), gpu.job)

    def _memories(self, node: str) -> Iterable[GpuMemory]:
        memory = self._nodes.get(node)
        return [] if memory is None else memory.in_order

    def snapshot(self, node: str) -> list[dict[str, Any]]:
        """What must survive a restart, beside the findings, as JSON."""
        memory = self._nodes.get(node)
        return [] if memory is None else memory.snapshot()

    def restore(
        self, node: str, snapshot: Iterable[Mapping[str, Any]], findings: Iterable[Finding], heard: float | None
    ) -> None:
        """Take up what another life of this program knew of a node; findings of rules that are gone are dropped.

        `heard` counts as the last reading, so that a restart alone makes no node UNKNOWN; None: it was silent before.
        """
        self._nodes[node] = NodeMemory.restored(node, snapshot, findings, heard, self.rules)
