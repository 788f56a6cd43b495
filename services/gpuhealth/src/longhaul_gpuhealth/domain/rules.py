"""Rules as the engine uses them: what is watched, when a rule fires, what it asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property

from longhaul_gpuhealth.domain.model import HealthAction, Remedy, Severity
from longhaul_gpuhealth.domain.reading import MAIN_SIGNALS, XID_COUNT, XID_GAUGE, XID_KERNEL


@dataclass(frozen=True, slots=True)
class Codes:
    """Fires when the GPU reports one of the XID codes; a fired rule holds for `hold_seconds` after the last report."""

    codes: frozenset[int]
    hold_seconds: float


@dataclass(frozen=True, slots=True)
class Level:
    """Fires while a signal is above `above` (differs from `differs_from`, has bits of `mask`) for `for_seconds`."""

    signals: tuple[str, ...]
    above: float | None = None
    differs_from: float | None = None
    mask: int | None = None
    for_seconds: float = 0.0

    def holds(self, value: float) -> bool:
        """Whether one value meets the condition, duration aside."""
        if self.above is not None:
            return value > self.above
        if self.differs_from is not None:
            return value != self.differs_from
        assert self.mask is not None
        return value >= 0 and bool(int(value) & self.mask)


@dataclass(frozen=True, slots=True)
class Increase:
    """Fires while a counter grew by more than `above` within the last `window_seconds`."""

    signals: tuple[str, ...]
    above: float
    window_seconds: float


@dataclass(frozen=True, slots=True)
class Repeats:
    """Fires when other rules fired `at_least` times on one GPU within the window.

    A firing that `crowd_gpus` GPUs or more shared within about `crowd_seconds` does not count: the program is the
    suspect. Whether others share it shows only afterwards, so with a crowd a firing counts when it is that old.
    """

    of: tuple[str, ...]
    at_least: int
    window_seconds: float
    crowd_gpus: int | None = None
    crowd_seconds: float = 60.0


class PeerScope(StrEnum):
    """Whose values a GPU is compared with: all GPUs of its model, or those of its model in the same run."""

    MODEL = "model"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Outlier:
    """Fires while a signal is far below that of its peers: busy GPUs of the same model, in the cluster or in its run.

    `below_share`: by that share below the best peer. `below_deviations`: by that many median absolute deviations below
    the median. Both need `peers` others, and `busy_above` of `busy_signal` where given.
    """

    signals: tuple[str, ...]
    below_share: float | None
    below_deviations: float | None
    for_seconds: float
    peers: int
    busy_signal: str = ""
    busy_above: float = 0.0
    scope: PeerScope = PeerScope.MODEL


@dataclass(frozen=True, slots=True)
class Missing:
    """Fires when a GPU that was there is missing for `for_seconds` from pages that still show others of its node."""

    for_seconds: float


class MarkKind(StrEnum):
    """Marks that other programs put on nodes."""

    CONDITION = "condition"
    TAINT = "taint"


@dataclass(frozen=True, slots=True)
class Marked:
    """Fires while the node carries a mark of others that matches a pattern (`TYPE=STATUS`, `KEY=VALUE:EFFECT`)."""

    kind: MarkKind
    patterns: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """Whether a mark is meant."""
        return any(fnmatchcase(text, pattern) for pattern in self.patterns)


Condition = Codes | Level | Increase | Repeats | Outlier | Missing | Marked


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the rule table; `overrides` pairs a pattern of the GPU's model with its own condition.

    `computes`: work may still write a checkpoint. `when_idle`: the node leaves only once nothing runs there. `remedy`:
    what repairs it.
    """

    id: str
    when: Condition
    severity: Severity
    action: HealthAction
    description: str
    computes: bool
    latched: bool
    clear_seconds: float
    shadow: bool = False
    overrides: tuple[tuple[str, Condition], ...] = ()
    remedy: Remedy = Remedy.NONE
    when_idle: bool = False

    def condition_for(self, model: str) -> Condition:
        """The condition for a GPU of that model; the first pattern that matches decides."""
        return next((when for pattern, when in self.overrides if fnmatchcase(model, pattern)), self.when)


@dataclass(frozen=True)
class RuleSet:
    """A rules file."""

    version: str
    rules: tuple[Rule, ...]

    @cached_property
    def wanted(self) -> frozenset[str]:
        """Names of all series that some rule or person looks at."""
        names = {XID_GAUGE, XID_COUNT, XID_KERNEL, *MAIN_SIGNALS}
        for rule in self.rules:
            for when in (rule.when, *(when for _, when in rule.overrides)):
                names.update(signals_of(when))
        return frozenset(names)

    def find(self, rule_id: str) -> Rule | None:
        """The rule of that id."""
        return next((rule for rule in self.rules if rule.id == rule_id), None)

    def at_version(self, version: str) -> RuleSet:
        """The same rules under another version."""
        return replace(self, version=version)


def signals_of(when: Condition) -> tuple[str, ...]:
    """Names of the series that a condition reads."""
    match when:
        case Codes():
            return (XID_GAUGE, XID_COUNT, XID_KERNEL)
        case Repeats() | Missing() | Marked():
            return ()
        case Outlier(busy_signal=busy):
            return (*when.signals, busy) if busy else when.signals
        case _:
            return when.signals


def describe(when: Condition) -> str:
    """A condition in words."""
    match when:
        case Codes():
            return "XID " + ", ".join(map(str, sorted(when.codes)))
        case Level(above=float() as above):
            return f"> {above:g}{_during(when.for_seconds)}"
        case Level(differs_from=float() as value):
            return f"not {value:g}{_during(when.for_seconds)}"
        case Level():
            return f"has bits of {when.mask:#x}{_during(when.for_seconds)}"
        case Increase():
            return f"grows by more than {when.above:g} in {duration(when.window_seconds)}"
        case Repeats():
            crowd = "" if when.crowd_gpus is None else f", unless {when.crowd_gpus} GPUs share it"
            return f"{' or '.join(when.of)} at least {when.at_least} times in {duration(when.window_seconds)}{crowd}"
        case Outlier(below_share=float() as share):
            return f"{share:.0%} below the best peer{_of(when.scope)}{_during(when.for_seconds)}"
        case Outlier():
            return f"{when.below_deviations:g} deviations below its peers{_of(when.scope)}{_during(when.for_seconds)}"
        case Missing():
            return f"missing from the exporter's pages{_during(when.for_seconds)}"
        case Marked():
            return f"the node has {when.kind} {' or '.join(when.patterns)}"


def duration(seconds: float) -> str:
    """A duration as people write it: `90s`, `5m`, `24h`, `7d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _of(scope: PeerScope) -> str:
    return " of the run" if scope is PeerScope.RUN else ""


def _during(seconds: float) -> str:
    return f" for {duration(seconds)}" if seconds else ""
