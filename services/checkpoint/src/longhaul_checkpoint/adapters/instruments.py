"""What the checkpoint service measures."""

from __future__ import annotations

from longhaul_core.metrics import Metrics

COMMIT_BUCKETS_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Instruments:
    """The Prometheus metrics of the service."""

    def __init__(self, metrics: Metrics) -> None:
        self.committed = metrics.counter("committed", "Checkpoints committed.")
        self.committed_bytes = metrics.counter("committed_bytes", "Bytes of committed checkpoints.")
        self.refused = metrics.counter("refused", "Commits refused, by reason.", ["reason"])
        self.commit_seconds = metrics.histogram(
            "commit_seconds", "Time to verify and commit a checkpoint.", buckets=COMMIT_BUCKETS_SECONDS
        )
        self.verified_bytes = metrics.counter("verified_bytes", "Bytes of committed checkpoints read again.")
        self.damaged = metrics.counter("damaged", "Checkpoints found damaged.")
        self.deleted = metrics.counter("deleted", "Checkpoints deleted by retention.")
        self.deleted_bytes = metrics.counter("deleted_bytes", "Bytes freed by retention.")
        self.abandoned = metrics.counter("abandoned", "Checkpoints given up that were never committed.")
