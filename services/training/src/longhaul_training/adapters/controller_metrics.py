"""What the controller tells Prometheus; labels are bounded by the code, never by users' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager

from longhaul_core.metrics import Metrics

from longhaul_training.domain.actions import RunEvent
from longhaul_training.domain.states import Run, RunState

LOOK_BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


class ControllerMetrics:
    """Counters and gauges of one replica."""

    def __init__(self, metrics: Metrics) -> None:
        self._runs = metrics.gauge("runs", "Runs by state, as the leader sees them.", ("state",))
        self._agents = metrics.gauge("agents_connected", "Open agent streams.")
        self._incidents = metrics.counter("incidents", "Incidents detected, by cause.", ("cause",))
        self._transitions = metrics.counter("transitions", "Transitions of runs, by new state.", ("state",))
        self._looks = metrics.histogram(
            "reconcile_seconds", "Time of one pass over all runs and tasks.", buckets=LOOK_BUCKETS_SECONDS
        )
        self._leading = metrics.gauge("leading", "1 while this replica reconciles.")

    def looking(self) -> AbstractContextManager[object]:
        """Times one pass."""
        return self._looks.time()

    def lead(self, leading: bool) -> None:
        """Notes who reconciles."""
        self._leading.set(1 if leading else 0)

    def observe(self, runs: Iterable[Run], agents: int) -> None:
        """Sets the gauges after a pass."""
        counts = Counter(run.control.state for run in runs)
        for state in RunState:
            if not state.terminal:
                self._runs.labels(state.value).set(counts.get(state, 0))
        self._agents.set(agents)

    def count_events(self, happened: Iterable[RunEvent]) -> None:
        """Counts what a change reported."""
        for event in happened:
            if event.type == "INCIDENT_DETECTED":
                self._incidents.labels(event.cause).inc()
            elif event.type == "STATE_CHANGED":
                self._transitions.labels(str(event.data["to"])).inc()
