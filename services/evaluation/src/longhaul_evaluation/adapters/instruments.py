"""What the evaluation service measures."""

from __future__ import annotations

from longhaul_core.metrics import Metrics

DURATION_BUCKETS_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)


class Instruments:
    """The Prometheus metrics of the service."""

    def __init__(self, metrics: Metrics) -> None:
        self.active = metrics.gauge("active", "Evaluations that have not ended.")
        self.ended = metrics.counter("ended", "Evaluations that ended, by state.", ["state"])
        self.attempts_failed = metrics.counter("attempts_failed", "Score tasks that failed, by reason.", ["reason"])
        self.seconds = metrics.histogram(
            "seconds", "From the first score task of an evaluation to its end.", buckets=DURATION_BUCKETS_SECONDS
        )
