"""What a training pod tells Prometheus: the steps of rank 0, and its workers.

Only the pod of rank 0 has steps; its series carry project and run, so that a run's line goes on when rank 0 moves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from longhaul_core.errors import FailedPrecondition
from longhaul_core.logging import get_logger
from longhaul_core.metrics import Metrics, MetricsServer, start_metrics_server
from prometheus_client import Gauge

from longhaul_trainer.agent.settings import AgentSettings
from longhaul_trainer.agent.worker import Worker
from longhaul_trainer.wire import Committed, Event, Phase, StepRow

RUN = ("project", "run")
STEP_BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
WRITE_BUCKETS_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0)
PEAK_FLOPS = "peak_flops"
BY_SOURCE = {"validation_loss/": "validation", "epochs/": "epochs"}

log = get_logger(__name__)


class PodMetrics:
    """The registry of one pod."""

    def __init__(self, settings: AgentSettings, workers: Callable[[], Iterable[Worker]]) -> None:
        self._run = (settings.project, settings.run)
        self._workers = workers
        metrics = self.metrics = Metrics("trainer")
        info = metrics.gauge("info", "1; the labels say which pod this is.", (*RUN, "slot", "node"))
        info.labels(*self._run, str(settings.slot), settings.node).set(1)
        self._observe_steps(metrics)
        self._observe_workers(metrics, str(settings.slot))

    def _observe_steps(self, metrics: Metrics) -> None:
        self._step = metrics.gauge("step", "Newest step.", RUN)
        self._steps = metrics.counter("steps", "Steps made, repeated ones included.", RUN)
        self._tokens = metrics.counter("tokens", "Tokens trained on, repeated ones included.", RUN)
        self._seconds = metrics.histogram("step_seconds", "Time of a step.", RUN, STEP_BUCKETS_SECONDS)
        self._rate = metrics.gauge("tokens_per_second", "Throughput of the newest step over all ranks.", RUN)
        self._loss = metrics.gauge("loss", "Training loss of the newest step, nats a token.", RUN)
        self._norm = metrics.gauge("gradient_norm", "Global gradient norm of the newest step, before clipping.", RUN)
        self._learning_rate = metrics.gauge("learning_rate", "Learning rate of the newest step.", RUN)
        self._validation = metrics.gauge("validation_loss", "Newest validation loss, nats a token.", RUN)
        self._mfu = metrics.gauge("mfu_ratio", "Model FLOPS utilisation, where the device's dense peak is known.", RUN)
        self._peak = metrics.gauge("peak_flops", "Dense bfloat16 peak of all ranks, the denominator of MFU.", RUN)
        self._by_source = {
            "validation": metrics.gauge(
                "source_validation_loss", "Newest validation loss of one source, nats a token.", (*RUN, "source")
            ),
            "epochs": metrics.gauge("source_epochs", "How often a source was read so far.", (*RUN, "source")),
        }
        self._data_wait = metrics.counter("data_wait_seconds", "Time that steps waited for data.", RUN)
        self._stall = metrics.counter("checkpoint_stall_seconds", "Time that checkpoints held steps up.", RUN)
        self._checkpoints = metrics.counter("checkpoints", "Checkpoints that rank 0 saw committed.", RUN)
        self._write = metrics.histogram(
            "checkpoint_write_seconds", "From the copy of a checkpoint to its commit.", RUN, WRITE_BUCKETS_SECONDS
        )
        self._anomalies = metrics.counter("anomalies", "Anomalies in loss or gradients, by cause.", (*RUN, "cause"))
        self._anomalies.labels(*self._run, "LOSS_NOT_FINITE")  # shown as 0, so that the first one is an increase

    def _observe_workers(self, metrics: Metrics, slot: str) -> None:
        own = (*self._run, slot)
        self._exits = metrics.counter("worker_exits", "Workers that ended, by exit code.", (*RUN, "slot", "exit_code"))
        self._starts = metrics.counter("worker_starts", "Workers that were made a rank.", (*RUN, "slot"))
        self._starts.labels(*own)
        phases = metrics.gauge("workers", "Workers by what they do.", (*RUN, "slot", "phase"))
        for phase in Phase:
            phases.labels(*own, phase.value).set_function(lambda phase=phase: self._in_phase(phase))  # type: ignore[misc]
        silence = metrics.gauge("worker_silent_seconds", "Silence of the most silent worker.", (*RUN, "slot"))
        silence.labels(*own).set_function(self._silence)

    def started(self, slot: int) -> None:
        """Count a worker that became a rank."""
        self._starts.labels(*self._run, str(slot)).inc()

    def exited(self, slot: int, code: int) -> None:
        """Count a worker that ended."""
        self._exits.labels(*self._run, str(slot), str(code)).inc()

    def add_row(self, row: StepRow) -> None:
        """Take the metrics of a step."""
        run = self._run
        self._steps.labels(*run).inc()
        self._tokens.labels(*run).inc(round(row.tokens_per_second * row.step_seconds))
        self._seconds.labels(*run).observe(row.step_seconds)
        self._data_wait.labels(*run).inc(row.data_wait_seconds)
        self._stall.labels(*run).inc(row.checkpoint_stall_seconds)
        _set(self._step, run, row.step)
        _set(self._rate, run, row.tokens_per_second)
        _set(self._loss, run, row.loss)
        _set(self._norm, run, row.gradient_norm)
        _set(self._learning_rate, run, row.learning_rate)
        _set(self._validation, run, row.validation_loss)
        _set(self._mfu, run, row.mfu)
        _set(self._peak, run, row.extra.get(PEAK_FLOPS))
        for prefix, kind in BY_SOURCE.items():
            for name, value in row.extra.items():
                if name.startswith(prefix):
                    _set(self._by_source[kind], (*run, name.removeprefix(prefix)), value)

    def add_checkpoint(self, committed: Committed) -> None:
        """Take a commit."""
        self._checkpoints.labels(*self._run).inc()
        self._write.labels(*self._run).observe(committed.write_seconds)

    def add_event(self, event: Event) -> None:
        """Count an anomaly; other events are kept by the controller."""
        if event.kind == "ANOMALY":
            self._anomalies.labels(*self._run, event.cause).inc()

    def _in_phase(self, phase: Phase) -> float:
        return sum(worker.alive and (worker.phase or Phase.STARTING) == phase for worker in self._workers())

    def _silence(self) -> float:
        return max((worker.silent_seconds() for worker in self._workers() if worker.alive), default=0.0)


def serve_metrics(settings: AgentSettings, metrics: Metrics) -> MetricsServer | None:
    """Serve the pod's metrics where the settings want it; a port that is taken costs the metrics, not the training."""
    if not settings.metrics_address:
        return None
    try:
        server = start_metrics_server(settings.metrics_address, metrics.registry)
    except FailedPrecondition as error:
        log.warning("metrics not served", reason=error.reason, error=error.message)
        return None
    if settings.metrics_targets_dir is not None:
        _write_target(settings.metrics_targets_dir, settings.pod, server.address)
    return server


def forget_target(settings: AgentSettings) -> None:
    """Take this pod's target file away."""
    if settings.metrics_targets_dir is not None:
        (settings.metrics_targets_dir / f"{settings.pod}.json").unlink(missing_ok=True)


def _write_target(folder: Path, pod: str, address: str) -> None:
    """Name the pod to a Prometheus with `file_sd_configs`, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{pod}.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps([{"targets": [address], "labels": {"job": "longhaul-trainer"}}]))
    temporary.replace(target)


def _set(gauge: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        gauge.labels(*labels).set(value)
