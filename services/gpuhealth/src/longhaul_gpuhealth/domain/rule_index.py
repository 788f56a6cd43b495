"""A rule set by what sets its rules off, so that a reading meets only the rules that it can touch. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from longhaul_gpuhealth.domain.rules import Codes, Increase, Marked, Missing, Repeats, Rule, RuleSet


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """Rules by XID code, and by kind. `counters` is the longest window of each counter that a rule watches."""

    by_code: dict[int, list[Rule]] = field(default_factory=dict)
    repeats: list[Rule] = field(default_factory=list)
    missing: list[Rule] = field(default_factory=list)
    marked: list[Rule] = field(default_factory=list)
    continuous: list[Rule] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, rules: RuleSet) -> RuleIndex:
        """Index a rule set; a rule counts with the conditions of its overrides too."""
        index = cls()
        for rule in rules.rules:
            for when in (rule.when, *(when for _, when in rule.overrides)):
                index._add(rule, when)
            if not isinstance(rule.when, Codes | Repeats | Missing | Marked):
                index.continuous.append(rule)
        return index

    def _add(self, rule: Rule, when: object) -> None:
        if isinstance(when, Codes):
            for code in when.codes:
                self.by_code.setdefault(code, []).append(rule)
        elif isinstance(when, Repeats):
            self.repeats.append(rule)
        elif isinstance(when, Missing):
            self.missing.append(rule)
        elif isinstance(when, Marked):
            self.marked.append(rule)
        elif isinstance(when, Increase):
            for signal in when.signals:
                self.counters[signal] = max(when.window_seconds, self.counters.get(signal, 0.0))
