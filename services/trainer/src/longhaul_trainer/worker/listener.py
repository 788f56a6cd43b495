"""Turns the saver's news into reports and log lines."""

from __future__ import annotations

from longhaul_core.logging import get_logger

from longhaul_trainer.checkpoint.saver import Saved
from longhaul_trainer.loop.report import Reporter

_log = get_logger(__name__)


class ReportingListener:
    """Listener of one rank's saver; only rank 0 reports commits."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def checkpoint_committed(self, saved: Saved) -> None:
        """Reports the commit."""
        _log.info("checkpoint committed", checkpoint=saved.name, write_seconds=round(saved.write_seconds, 3))
        self._reporter.committed(saved)

    def checkpoint_delayed(self, step: int, error: Exception) -> None:
        """Reports that the store or the service is away, once a checkpoint."""
        _log.warning("checkpoint delayed", step=step, error=str(error))
        self._reporter.event("CHECKPOINT_DELAYED", "STORE_UNAVAILABLE", str(error), {"step": step})

    def checkpoint_failed(self, step: int, error: Exception) -> None:
        """Reports that a checkpoint was given up."""
        _log.error("checkpoint given up", step=step, error=str(error))
        cause = getattr(error, "reason", type(error).__name__)
        self._reporter.event("CHECKPOINT_FAILED", cause, str(error), {"step": step})
