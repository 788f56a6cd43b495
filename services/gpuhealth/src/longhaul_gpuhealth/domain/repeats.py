"""How often rules fired on one GPU, less what many GPUs shared: that is a program's fault and not the GPU's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from longhaul_gpuhealth.domain.fleet import Crowd, GpuKey
from longhaul_gpuhealth.domain.memory import GpuMemory
from longhaul_gpuhealth.domain.rules import Repeats, Rule


@dataclass(slots=True)
class RepeatWatch:
    """Counts for rules that watch repeats of others; remembers on which GPUs of the cluster those fired."""

    _rules: tuple[Rule, ...] = ()
    _crowds: dict[str, Crowd] = field(default_factory=dict)

    def use_rules(self, rules: list[Rule]) -> None:
        """Watch for these rules from now on; what fired before is forgotten."""
        self._rules = tuple(rules)
        self._crowds = {
            rule.id: Crowd(when.crowd_seconds, when.window_seconds + 2 * when.crowd_seconds)
            for rule in rules
            if isinstance(when := rule.when, Repeats)
        }

    def fired(self, rule_id: str, key: GpuKey, time: float) -> None:
        """A rule fired on a GPU."""
        for rule in self._rules:
            assert isinstance(rule.when, Repeats)
            if rule_id in rule.when.of:
                self._crowds[rule.id].add(time, key)

    def count(self, memory: GpuMemory, rule: Rule, when: Repeats, time: float) -> int:
        """Occurrences on one GPU within the window that no crowd shared."""
        first = time - when.window_seconds
        last = time - when.crowd_seconds if when.crowd_gpus else time
        crowd = self._crowds[rule.id]
        return sum(
            first < occurred <= last and not (when.crowd_gpus and crowd.shared(occurred, when.crowd_gpus))
            for rule_id in when.of
            for occurred in memory.occurrences.get(rule_id, ())
        )

    def summaries(self, time: float) -> dict[str, dict[int, int]]:
        """What other replicas should know."""
        found = {rule: crowd.summary(time) for rule, crowd in self._crowds.items()}
        return {rule: slots for rule, slots in found.items() if slots}

    def hear(self, replica: str, crowds: Mapping[str, Mapping[int, int]], time: float) -> None:
        """On how many GPUs rules fired at another replica."""
        for rule, crowd in self._crowds.items():
            crowd.hear(replica, crowds.get(rule, {}), time)
