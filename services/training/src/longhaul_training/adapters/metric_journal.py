"""The journal in which rank 0 leaves its metric rows beside each checkpoint: read back, and cleared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from longhaul_core.metric_journal import JournalSpan, journal_prefix
from longhaul_core.objects import ObjectStore

from longhaul_training.domain.reports import StepRow

Rows = tuple[tuple[StepRow, dict[str, Any]], ...]
"""Metric rows, each with the values that are kept as they came."""


class MetricJournal:
    """Journals of all runs. `decode` reads one object; it raises ValueError for one that is damaged."""

    def __init__(self, objects: ObjectStore, decode: Callable[[bytes], Rows]) -> None:
        self._objects = objects
        self._decode = decode

    def read(self, project: str, run_id: str, after: tuple[int, int], through: int) -> tuple[Rows, list[str]]:
        """Rows later than `after` (epoch, position), up to a position: by step, of each the latest; and damaged keys.

        A row is later if its epoch is higher, or its position within the same epoch.
        """
        found: dict[int, tuple[StepRow, dict[str, Any]]] = {}
        damaged = []
        for key, span in self._spans(project, run_id):
            if (span.epoch, span.last) <= after or span.first > through:
                continue
            try:
                rows = self._decode(self._objects.get(key))
            except ValueError:
                damaged.append(key)
                continue
            for row, values in rows:
                known = found.get(row.step)
                if not after < (row.epoch, row.position) or row.position > through:
                    continue
                if known is None or (known[0].epoch, known[0].position) <= (row.epoch, row.position):
                    found[row.step] = (row, values)
        return tuple(found[step] for step in sorted(found)), damaged

    def clear(self, project: str, run_id: str, through: int) -> None:
        """Deletes what holds no row after a position; the database has all rows up to it."""
        for key, span in self._spans(project, run_id):
            if span.last <= through:
                self._objects.delete(key)

    def _spans(self, project: str, run_id: str) -> list[tuple[str, JournalSpan]]:
        infos = self._objects.list(journal_prefix(project, run_id))
        return [(info.key, span) for info in infos if (span := JournalSpan.parse(info.key)) is not None]
