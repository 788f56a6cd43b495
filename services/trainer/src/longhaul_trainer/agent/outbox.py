"""Reports that wait until the controller has committed them: none is lost, and none counts twice.

Each report gets the next sequence number once and keeps it. After a reconnect everything above the acknowledged number
is sent again; the controller drops what it has by (pod, sequence).
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

from longhaul.training.v1 import agent_pb2, training_run_pb2

_ROWS_A_BATCH = 200


class Outbox:
    """Numbered reports in order, and metric rows that are batched when they are about to be sent."""

    def __init__(self) -> None:
        self._reports: deque[agent_pb2.ConnectRequest] = deque()
        self._rows: deque[training_run_pb2.StepMetrics] = deque()
        self._last = 0
        self._emptied = asyncio.Event()
        self._emptied.set()
        self.filled = asyncio.Event()

    @property
    def last_sequence(self) -> int:
        """Highest number given so far."""
        return self._last

    @property
    def waiting(self) -> int:
        """Reports and rows that are not acknowledged."""
        return len(self._reports) + len(self._rows)

    def add(self, report: agent_pb2.ConnectRequest) -> None:
        """Appends a report, behind the rows that came before it."""
        self._seal_rows()
        self._append(report)

    def add_row(self, row: training_run_pb2.StepMetrics) -> None:
        """Appends a metric row; rows that come close together travel as one report."""
        self._rows.append(row)
        self._mark_filled()

    def after(self, sequence: int) -> list[agent_pb2.ConnectRequest]:
        """Every report above a number, in order."""
        self._seal_rows()
        self.filled.clear()
        return [report for report in self._reports if report.sequence > sequence]

    def acknowledge(self, sequence: int) -> None:
        """Forgets what the controller has committed."""
        self._last = max(self._last, sequence)
        while self._reports and self._reports[0].sequence <= sequence:
            self._reports.popleft()
        if not self.waiting:
            self._emptied.set()

    async def drained(self) -> None:
        """Returns once everything is acknowledged."""
        await self._emptied.wait()

    def _seal_rows(self) -> None:
        while self._rows:
            rows = list(islice(self._rows, _ROWS_A_BATCH))
            for _ in rows:
                self._rows.popleft()
            self._append(agent_pb2.ConnectRequest(step_metrics=agent_pb2.StepMetricsBatch(rows=rows)))

    def _append(self, report: agent_pb2.ConnectRequest) -> None:
        self._last += 1
        report.sequence = self._last
        self._reports.append(report)
        self._mark_filled()

    def _mark_filled(self) -> None:
        self._emptied.clear()
        self.filled.set()
