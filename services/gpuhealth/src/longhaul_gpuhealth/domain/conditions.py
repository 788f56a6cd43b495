"""Conditions that hold or do not hold at each reading: levels, growth of counters, distance from peers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from longhaul_gpuhealth.domain.exchange import GroupSummary
from longhaul_gpuhealth.domain.fleet import Peers
from longhaul_gpuhealth.domain.memory import GpuMemory
from longhaul_gpuhealth.domain.model import Sample
from longhaul_gpuhealth.domain.rules import Increase, Level, Outlier, PeerScope, Rule

Outcome = tuple[bool | None, Sequence[Sample]]
"""Whether a condition holds (None: its signals say nothing, or not for long enough), and the samples that show it."""


@dataclass(slots=True)
class Conditions:
    """Evaluates conditions; remembers the values of peers."""

    _peers: dict[str, Peers] = field(default_factory=dict)

    def forget(self, nodes: Collection[str]) -> None:
        """The nodes are watched elsewhere, or are gone: their GPUs are no peers here any more."""
        for peers in self._peers.values():
            peers.forget(nodes)

    def forget_stale(self, time: float) -> None:
        """Drop what is kept of groups that ended."""
        for peers in self._peers.values():
            peers.forget_stale(time)

    def summaries(self, time: float) -> dict[str, dict[str, GroupSummary]]:
        """What other replicas should know of the peers here, by rule and group."""
        found = {rule: peers.summaries(time) for rule, peers in self._peers.items()}
        return {rule: groups for rule, groups in found.items() if groups}

    def hear(self, replica: str, groups: Mapping[str, Mapping[str, GroupSummary]], time: float) -> None:
        """What another replica knows of the peers there."""
        for rule in groups.keys() | self._peers.keys():
            self._peers.setdefault(rule, Peers()).hear(replica, groups.get(rule, {}), time)

    def evaluate(self, node: str, memory: GpuMemory, rule: Rule, signals: dict[str, float], time: float) -> Outcome:
        """Whether the rule's condition holds now; None when its signals say nothing."""
        when = rule.condition_for(memory.model) if rule.overrides else rule.when
        if isinstance(when, Level):
            found = [(signals[name], name) for name in when.signals if name in signals]
            if not found:
                return None, ()
            value, name = max(found)
            if not when.holds(value):
                return False, ()
            return _after(when.for_seconds, memory, rule, Sample(node, memory.index, name, value, time))
        if isinstance(when, Increase):
            return self._evaluate_increase(node, memory, when, time)
        assert isinstance(when, Outlier)
        return self._evaluate_outlier(node, memory, rule, when, signals, time)

    def _evaluate_increase(self, node: str, memory: GpuMemory, when: Increase, time: float) -> Outcome:
        counters = [(name, memory.counters[name]) for name in when.signals if name in memory.counters]
        if not counters:
            return None, ()
        growing = [(name, counter) for name, counter in counters if counter.growth]
        if not growing or sum(one.grown_since(time - when.window_seconds) for _, one in growing) <= when.above:
            return False, ()
        return True, [Sample(node, memory.index, name, counter.last, time) for name, counter in growing]

    def _evaluate_outlier(
        self, node: str, memory: GpuMemory, rule: Rule, when: Outlier, signals: dict[str, float], time: float
    ) -> Outcome:
        key = (node, memory.index)
        name = next((signal for signal in when.signals if signal in signals), None)
        peers = self._peers.setdefault(rule.id, Peers())
        busy = not when.busy_signal or signals.get(when.busy_signal, 0.0) > when.busy_above
        among = memory.model if when.scope is PeerScope.MODEL else _run_and_model(memory)
        if name is None or not among:
            return None, ()
        if not busy:
            peers.put(among, key, None, time)
            return False, ()
        value = signals[name]
        peers.put(among, key, value, time)
        group = peers.group(among, time)
        if group.count <= when.peers or group.best_owner == key:
            return False, ()
        if when.below_share is not None:
            low = value < (1 - when.below_share) * group.best
        else:
            assert when.below_deviations is not None
            low = value < group.median - when.below_deviations * group.deviation
        if not low:
            return False, ()
        return _after(when.for_seconds, memory, rule, Sample(node, memory.index, name, value, time))


def _run_and_model(memory: GpuMemory) -> str:
    """Name of the group of GPUs that do the same; empty while no run is known to use the GPU."""
    run = "" if memory.job is None else memory.job.peer_group
    return f"{run}/{memory.model}" if run else ""


def _after(seconds: float, memory: GpuMemory, rule: Rule, sample: Sample) -> Outcome:
    """The condition is met now; whether it was for long enough."""
    since = memory.holds_since.setdefault(rule.id, sample.time)
    if sample.time - since < seconds and rule.id not in memory.open:
        return None, ()
    return True, (sample,)
