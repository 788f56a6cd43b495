"""What is committed, run by run, as Prometheus sees it: followed by revision, so that a look costs what changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import LonghaulError
from longhaul_core.ids import ANY_PROJECT
from longhaul_core.logging import get_logger
from longhaul_core.metrics import Metrics

from longhaul_checkpoint.adapters.loops import pause
from longhaul_checkpoint.adapters.records import CHECKPOINT_KIND, checkpoint_of
from longhaul_checkpoint.domain.checkpoint import VISIBLE_STATES, State

log = get_logger(__name__)

SHOWN_DAYS = 7
"""A run whose newest commit is older is not shown any more; its checkpoints stay."""
BATCH = 500
INTERVAL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What the figures of one committed checkpoint are made of."""

    run: tuple[str, str]
    step: int
    size_bytes: int
    committed: datetime
    damaged: bool


class Survey:
    """The gauges of committed checkpoints. Every replica shows the same."""

    def __init__(self, db: Database, clock: Clock, metrics: Metrics) -> None:
        self._db = db
        self._clock = clock
        self._revision = 0
        self._kept: dict[str, Kept] = {}
        labels = ("project", "run")
        self._committed = metrics.table(
            "last_commit_timestamp_seconds", "When the newest checkpoint of a run was committed, Unix time.", labels
        )
        self._verified = metrics.table(
            "last_verified_timestamp_seconds",
            "When the newest intact checkpoint of a run was committed, Unix time: training goes back there at worst.",
            labels,
        )
        self._step = metrics.table("last_verified_step", "Step of the newest intact checkpoint of a run.", labels)
        self._bytes = metrics.table(
            "stored_bytes", "Bytes that the committed checkpoints of a run wrote; shared parts once.", labels
        )
        self._count = metrics.table("stored", "Committed checkpoints of a run by state.", (*labels, "state"))

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again."""
        while not stop.is_set():
            try:
                await self.look()
            except LonghaulError as error:
                log.warning("survey failed", reason=error.reason, error=error.message)
            await pause(stop, INTERVAL_SECONDS)

    async def look(self) -> None:
        """Read what changed and show what there is."""
        while True:
            rows = await self._db.read(self._changes)
            for row in rows:
                self._take(row)
            if len(rows) < BATCH:
                break
        self._show()

    def _changes(self, session: Session) -> list[ResourceRow]:
        return resources.changes(session, CHECKPOINT_KIND, ANY_PROJECT, self._revision, BATCH)

    def _take(self, row: ResourceRow) -> None:
        self._revision = row.revision
        if row.deleted or row.state not in VISIBLE_STATES:
            self._kept.pop(row.uid, None)
            return
        checkpoint = checkpoint_of(row)
        commitment = checkpoint.committed
        identity = checkpoint.identity
        self._kept[row.uid] = Kept(
            run=(identity.project, identity.run),
            step=identity.step,
            size_bytes=commitment.size_bytes - sum(commitment.borrowed.values()),
            committed=commitment.commit_time,
            damaged=checkpoint.state is not State.COMMITTED,
        )

    def _show(self) -> None:
        by_run: dict[tuple[str, str], list[Kept]] = {}
        for kept in self._kept.values():
            by_run.setdefault(kept.run, []).append(kept)
        oldest = self._clock.now() - timedelta(days=SHOWN_DAYS)
        newest = {run: max(kept, key=lambda one: one.committed) for run, kept in by_run.items()}
        shown = {run: by_run[run] for run, last in newest.items() if last.committed > oldest}
        intact = {run: [one for one in kept if not one.damaged] for run, kept in shown.items()}
        last = {run: max(kept, key=lambda one: one.committed) for run, kept in intact.items() if kept}
        self._committed.show({run: newest[run].committed.timestamp() for run in shown})
        self._verified.show({run: one.committed.timestamp() for run, one in last.items()})
        self._step.show({run: one.step for run, one in last.items()})
        self._bytes.show({run: sum(one.size_bytes for one in kept) for run, kept in shown.items()})
        self._count.show(
            {
                (*run, state): number
                for run, kept in shown.items()
                for state, number in (
                    ("intact", sum(not one.damaged for one in kept)),
                    ("damaged", sum(one.damaged for one in kept)),
                )
            }
        )
