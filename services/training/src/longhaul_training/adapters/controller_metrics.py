"""What the controller tells Prometheus of all runs together; single runs are in `run_metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager

from longhaul_core.metrics import Metrics

from longhaul_training.adapters.run_metrics import RunMetrics
from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.domain.actions import Change, RunEvent
from longhaul_training.domain.states import Run, RunState

SHOW_SECONDS = 1.0
"""Looks may follow one another closely; the series of single runs need not."""
RECOVERY_BUCKETS_SECONDS = (0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0)
QUEUE_BUCKETS_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0, 7 * 24 * 3600.0)
RECOVERY_STAGES = ("detect", "restart", "restore", "replay")
LOOK_BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)


class ControllerMetrics:
    """Counters and gauges of one replica."""

    def __init__(self, metrics: Metrics) -> None:
        runs = metrics.gauge("runs", "Runs by state, as the leader sees them.", ("state",))
        self._by_state = {state: runs.labels(state.value) for state in RunState}
        self._agents = metrics.gauge("agents_connected", "Open agent streams.")
        self._incidents = metrics.counter("incidents", "Incidents detected, by cause.", ("cause",))
        self._transitions = metrics.counter("transitions", "Transitions of runs, by new state.", ("state",))
        self._looks = metrics.histogram(
            "reconcile_seconds", "Time of one pass over all runs and tasks.", buckets=LOOK_BUCKETS_SECONDS
        )
        self._leading = metrics.gauge("leading", "1 while this replica reconciles.")
        self._recovery = metrics.histogram(
            "recovery_seconds",
            "Time of a repair by stage: detect, restart, restore, replay.",
            ("stage",),
            RECOVERY_BUCKETS_SECONDS,
        )
        self._queue = metrics.histogram(
            "queue_seconds", "Time from a run's acceptance to its admission.", buckets=QUEUE_BUCKETS_SECONDS
        )
        self._single = RunMetrics(metrics)
        self._shown_at = 0.0
        for stage in RECOVERY_STAGES:
            self._recovery.labels(stage)

    def looking(self) -> AbstractContextManager[object]:
        """Times one pass."""
        return self._looks.time()

    def lead(self, leading: bool) -> None:
        """Notes who reconciles."""
        self._leading.set(1 if leading else 0)
        if not leading:
            self._single.clear()
            for series in self._by_state.values():
                series.set(0)

    def observe(self, runs: Iterable[StoredRun], agents: int, now: float) -> None:
        """Sets the gauges after a pass over all runs, ended ones included."""
        known = list(runs)
        if abs(now - self._shown_at) >= SHOW_SECONDS:
            self._single.show(known, now)
            self._shown_at = now
        counts = Counter(stored.run.control.state for stored in known)
        for state in RunState:
            if not state.terminal:
                self._by_state[state].set(counts.get(state, 0))
        self._agents.set(agents)

    def count_change(self, before: Run, change: Change) -> None:
        """Counts what a change that was committed means."""
        waited = before.control.state in (RunState.QUEUED, RunState.WAITING_FOR_INPUTS)
        if waited and change.control.state is RunState.ADMITTED:
            earlier = 0.0 if before.control.started_at is None else before.control.time.queued
            self._queue.observe(change.control.time.queued - earlier)
        self.count_events(change.events)

    def count_events(self, happened: Iterable[RunEvent]) -> None:
        """Counts what was reported."""
        for event in happened:
            if event.type == "INCIDENT_DETECTED":
                self._incidents.labels(event.cause).inc()
            elif event.type == "INCIDENT_RECOVERED":
                for stage in RECOVERY_STAGES:
                    self._recovery.labels(stage).observe(float(event.data[f"{stage}_seconds"]))
            elif event.type == "STATE_CHANGED":
                self._transitions.labels(str(event.data["to"])).inc()
