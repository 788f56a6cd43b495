"""What the engine remembers of one GPU between scrapes: counters, sticky codes, findings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longhaul_gpuhealth.domain.model import NODE_LEVEL, Finding, HealthAction, Job, Sample, Severity
from longhaul_gpuhealth.domain.reading import XID_COUNT, XID_GAUGE, XID_KERNEL, GpuReading
from longhaul_gpuhealth.domain.rules import Rule

EVIDENCE_KEPT = 3
"""Samples kept of the beginning of a finding, and as many of its end."""
OCCURRENCES_KEPT = 1000


@dataclass(frozen=True, slots=True)
class XidReport:
    """`times` reports of one XID, seen as `value` of `signal`."""

    code: int
    times: int
    signal: str
    value: float
    age_known: bool


@dataclass(slots=True)
class CounterMemory:
    """Growth of one counter; a reset (driver reload, exporter restart) is no growth."""

    last: float
    before_reset: float | None = None
    growth: deque[tuple[float, float]] = field(default_factory=deque)

    def advance(self, value: float, time: float) -> None:
        """Take the next value. One that comes back after a reset to where it was continues from there."""
        if value < self.last:
            self.before_reset = max(self.last, self.before_reset or 0.0)
        elif value > self.last:
            resumed = self.before_reset is not None and value >= self.before_reset
            base = self.before_reset if resumed and self.before_reset is not None else self.last
            self.before_reset = None if resumed else self.before_reset
            if value > base:
                self.growth.append((time, value - base))
                if len(self.growth) > OCCURRENCES_KEPT:
                    _fold_oldest(self.growth)
        self.last = value

    def grown_since(self, start: float) -> float:
        """Growth after `start`."""
        return sum(amount for time, amount in self.growth if time > start)

    def forget_before(self, start: float) -> None:
        """Drop growth that no window reaches."""
        while self.growth and self.growth[0][0] <= start:
            self.growth.popleft()


@dataclass(slots=True)
class OpenFinding:
    """A finding that is active."""

    rule: Rule
    version: str
    severity: Severity
    action: HealthAction
    message: str
    first_time: float
    last_time: float
    first_samples: list[Sample] = field(default_factory=list)
    last_samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=EVIDENCE_KEPT))

    @classmethod
    def reopened(cls, rule: Rule, finding: Finding) -> OpenFinding:
        """A finding that was told before a restart."""
        return cls(
            rule,
            finding.rule_version,
            finding.severity,
            finding.action,
            finding.message,
            finding.first_time,
            finding.last_time,
            list(finding.evidence),
        )

    def add(self, samples: Sequence[Sample], time: float) -> None:
        """The rule holds at `time`, as `samples` show."""
        self.last_time = max(self.last_time, time)
        for sample in samples:
            if len(self.first_samples) < EVIDENCE_KEPT:
                self.first_samples.append(sample)
            else:
                self.last_samples.append(sample)

    def close(self, gpu: int, uuid: str) -> Finding:
        """The finding as it is told to others."""
        return Finding(
            rule=self.rule.id,
            rule_version=self.version,
            severity=self.severity,
            action=self.action,
            gpu=gpu,
            gpu_uuid=uuid,
            message=self.message,
            first_time=self.first_time,
            last_time=self.last_time,
            shadow=self.rule.shadow,
            computes=self.rule.computes,
            evidence=(*self.first_samples, *self.last_samples),
            remedy=self.rule.remedy,
            when_idle=self.rule.when_idle,
        )


@dataclass(slots=True)
class GpuMemory:
    """One GPU (or, under index -1, what belongs to the whole node)."""

    index: int
    uuid: str = ""
    model: str = ""
    last_seen: float = 0.0
    shown: dict[str, float] = field(default_factory=dict)
    gauge: float | None = None
    counts: dict[int, float] = field(default_factory=dict)
    kernel: dict[int, float] | None = None
    job: Job | None = None
    pod: tuple[str, str] | None = None
    counters: dict[str, CounterMemory] = field(default_factory=dict)
    holds_since: dict[str, float] = field(default_factory=dict)
    occurrences: dict[str, deque[float]] = field(default_factory=dict)
    open: dict[str, OpenFinding] = field(default_factory=dict)

    def xids(self, reading: GpuReading) -> Iterator[XidReport]:
        """New XID reports, from the best source that there is, so that none is counted twice.

        The kernel's log is believed first, then the exporter's windowed count: growth is new reports. Otherwise the
        gauge, which keeps the last code for ever: a change is one report, a repeat of the code is invisible. A code
        of the log or the gauge that is there at first sight may be of any age.
        """
        gauge = reading.signals.get(XID_GAUGE)
        counted = reading.xid_counts
        if reading.kernel_xids is not None:
            yield from self._logged(reading.kernel_xids)
            self.counts = dict(counted or {})
        elif counted is not None:
            for code, count in counted.items():
                grown = int(count - self.counts.get(code, 0.0))
                if grown > 0:
                    yield XidReport(code, grown, XID_COUNT, count, age_known=True)
            self.counts = dict(counted)
        elif self.counts:
            self.counts = {}
        elif gauge is not None and gauge > 0 and gauge != self.gauge:
            yield XidReport(int(gauge), 1, XID_GAUGE, gauge, age_known=self.gauge is not None)
        if gauge is not None:
            self.gauge = gauge

    def _logged(self, counts: Mapping[int, float]) -> Iterator[XidReport]:
        before = self.kernel
        for code, count in counts.items():
            grown = int(count - (before or {}).get(code, 0.0))
            if grown > 0:
                yield XidReport(code, grown, XID_KERNEL, count, age_known=before is not None)
        self.kernel = dict(counts)

    def advance_counters(self, windows: Mapping[str, float], signals: Mapping[str, float], time: float) -> None:
        """Take the values of counters, whose growth is kept for as long as rules look back."""
        for signal, window in windows.items():
            value = signals.get(signal)
            if value is None or value < 0:
                continue
            counter = self.counters.get(signal)
            if counter is None:
                self.counters[signal] = CounterMemory(value)
                continue
            if value != counter.last:
                counter.advance(value, time)
            if counter.growth:
                counter.forget_before(time - window)

    def occurred(self, rule_id: str, time: float, times: int) -> None:
        """Note that a rule fired."""
        kept = self.occurrences.setdefault(rule_id, deque(maxlen=OCCURRENCES_KEPT))
        kept.extend([time] * min(times, OCCURRENCES_KEPT))

    def snapshot(self) -> dict[str, Any]:
        """What must survive a restart of this program, as JSON: sticky codes and when rules fired."""
        return {
            "index": self.index,
            "uuid": self.uuid,
            "model": self.model,
            "gauge": self.gauge,
            "counts": {str(code): count for code, count in self.counts.items()},
            "kernel": None if self.kernel is None else {str(code): count for code, count in self.kernel.items()},
            "occurrences": {rule: list(times) for rule, times in self.occurrences.items()},
        }

    @classmethod
    def restored(cls, snapshot: Mapping[str, Any]) -> GpuMemory:
        """The memory of a snapshot."""
        kernel = snapshot.get("kernel")
        return cls(
            index=snapshot["index"],
            uuid=snapshot["uuid"],
            model=snapshot["model"],
            gauge=snapshot["gauge"],
            counts={int(code): count for code, count in snapshot["counts"].items()},
            kernel=None if kernel is None else {int(code): count for code, count in kernel.items()},
            occurrences={
                rule: deque(times, maxlen=OCCURRENCES_KEPT) for rule, times in snapshot["occurrences"].items()
            },
        )

    @property
    def is_gpu(self) -> bool:
        """Whether it stands for a GPU."""
        return self.index != NODE_LEVEL


def _fold_oldest(growth: deque[tuple[float, float]]) -> None:
    """Merge the two oldest entries, so that memory is bounded and no growth is lost."""
    _, first = growth.popleft()
    time, second = growth.popleft()
    growth.appendleft((time, first + second))
