"""Retention as mark and sweep, and the removal of what no checkpoint owns.

A mark is a change of state in the catalogue, decided again within its transaction. The sweep removes the manifest
first, so that nothing half deleted looks committed, then the parts; a crash in between is finished at the next round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import NotFound
from longhaul_core.failpoints import Failpoints
from longhaul_core.logging import get_logger
from longhaul_core.objects.store import ObjectStore

from longhaul_checkpoint.adapters import catalogue
from longhaul_checkpoint.adapters.failpoints import Point
from longhaul_checkpoint.adapters.inspection import Inspector
from longhaul_checkpoint.adapters.instruments import Instruments
from longhaul_checkpoint.adapters.records import checkpoint_of, head_of, policy_of
from longhaul_checkpoint.adapters.settling import Settler
from longhaul_checkpoint.domain.checkpoint import VISIBLE_STATES, Checkpoint, Identity, State
from longhaul_checkpoint.domain.naming import checked_run, run_prefix, split_step_id
from longhaul_checkpoint.domain.retention import Candidate, Decision, RetentionPolicy, decide
from longhaul_checkpoint.domain.sharing import Holdings, freed_bytes, holdings

log = get_logger(__name__)

_SWEEPS = {State.DELETING: State.DELETED, State.ABANDONING: State.ABANDONED}


@dataclass(frozen=True, slots=True)
class CollectorLimits:
    """Ages, in seconds, after which what was begun and never committed is given up.

    `stale` counts for epochs that were replaced and for objects that no checkpoint owns: long enough for a writer that
    was not told yet to stop. `abandoned` counts for the present epoch.
    """

    stale_seconds: float
    abandoned_seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """What a round decided, and the bytes that it freed or would free."""

    decisions: tuple[Decision, ...]
    bytes_freed: int


class Collector:
    """Applies the retention policies."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        clock: Clock,
        settler: Settler,
        inspector: Inspector,
        limits: CollectorLimits,
        instruments: Instruments,
        failpoints: Failpoints,
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._settler = settler
        self._inspector = inspector
        self._limits = limits
        self._instruments = instruments
        self._failpoints = failpoints

    async def set_policy(self, project: str, run: str, policy: RetentionPolicy) -> None:
        """Set the policy of a run, which may not exist yet. What its manifests say is read back first."""
        checked_run(run)
        await self._settler.settle_run(project, run)
        now = self._clock.now()

        def transact(session: Session) -> None:
            row = catalogue.run_row(session, project, run, now, for_update=True)
            catalogue.save_run(session, row, policy=policy, now=now)

        await self._db.run(transact)

    async def collect(self, project: str, run: str, *, dry_run: bool) -> Round:
        """Apply the policy of one run now, or say what it would delete."""
        if await self._db.read(lambda session: catalogue.find_run(session, project, run)) is None:
            return Round((), 0)
        decisions, rows = await self._decide(project, run)
        expired = [rows[decision.id] for decision in decisions if not decision.keep]
        kept = holdings(checkpoint_of(rows[decision.id]) for decision in decisions if decision.keep)
        size = freed_bytes([checkpoint_of(row) for row in expired], kept)
        if not dry_run:
            size = sum([await self._delete(row) for row in expired])
            await self._give_up(project, run)
            await self.finish(project, run)
            await asyncio.to_thread(self._sweep_unowned, project, run, *await self._owned(project, run))
        return Round(tuple(decisions), size)

    async def finish(self, project: str = "", run: str = "") -> None:
        """Sweep what is marked: of one run, or after a crash of all."""
        states = set(_SWEEPS)
        for row in await self._db.read(lambda session: catalogue.in_states(session, states, project, run)):
            await self._sweep(row)

    async def _decide(self, project: str, run: str) -> tuple[list[Decision], dict[str, ResourceRow]]:
        try:
            latest = (await self._inspector.latest(project, run)).id
        except NotFound:
            return [], {}

        now = self._clock.now()

        def look(session: Session) -> tuple[list[Decision], dict[str, ResourceRow]]:
            run_row = catalogue.find_run(session, project, run)
            if run_row is None:
                return [], {}
            found = {row.id: row for row in catalogue.of_run(session, project, run, VISIBLE_STATES)}
            candidates = [_candidate(checkpoint_of(row), now) for row in found.values()]
            protected = {latest, head_of(run_row).checkpoint}
            return decide(candidates, policy_of(run_row), latest=protected), found

        return await self._db.read(look)

    async def _delete(self, row: ResourceRow) -> int:
        now = self._clock.now()

        def mark(session: Session) -> ResourceRow | None:
            run = catalogue.run_row(session, row.project, row.spec["run"], now, for_update=True)
            current = catalogue.get(session, row.project, row.id, for_update=True)
            checkpoint = checkpoint_of(current)
            held = checkpoint.pinned or checkpoint.is_leased(now)
            is_head = head_of(run).checkpoint == row.id
            if held or is_head or current.state not in VISIBLE_STATES:
                return None
            return catalogue.set_state(session, current, State.DELETING, cause="RETENTION", now=now)

        marked = await self._db.run(mark)
        if marked is None:
            return 0
        self._failpoints.reach(Point.COLLECT_AFTER_MARK)
        return await self._sweep(marked)

    async def _give_up(self, project: str, run: str) -> None:
        now = self._clock.now()
        stale = now - timedelta(seconds=self._limits.stale_seconds)
        abandoned = now - timedelta(seconds=self._limits.abandoned_seconds)

        def mark(session: Session) -> None:
            run_row = catalogue.run_row(session, project, run, now, for_update=True)
            epoch = head_of(run_row).epoch
            for row in catalogue.in_states(session, {State.BEGUN}, project, run):
                is_stale = row.spec["epoch"] < epoch and row.created_at < stale
                if is_stale or row.created_at < abandoned:
                    catalogue.set_state(session, row, State.ABANDONING, cause="NEVER_COMMITTED", now=now)

        await self._db.run(mark)

    async def _sweep(self, row: ResourceRow) -> int:
        """Remove the objects of a marked checkpoint that no live one needs; returns the bytes freed."""
        checkpoint = checkpoint_of(row)
        identity = checkpoint.identity
        live = await self._db.read(lambda session: catalogue.held(session, identity.project, identity.run))
        freed = await asyncio.to_thread(self._remove, checkpoint, live)
        now = self._clock.now()

        def record(session: Session) -> None:
            current = catalogue.get(session, row.project, row.id, for_update=True)
            if current.state == row.state:
                swept = _SWEEPS[State(row.state)]
                catalogue.set_state(session, current, swept, cause="OBJECTS_REMOVED", now=now)

        await self._db.run(record)
        if checkpoint.commitment is None:
            self._instruments.abandoned.inc()
        else:
            self._instruments.deleted.inc()
            self._instruments.deleted_bytes.inc(freed)
        log.info("checkpoint removed", checkpoint=identity.name, state=row.state, bytes=freed)
        return freed

    def _remove(self, checkpoint: Checkpoint, live: Holdings) -> int:
        identity, commitment = checkpoint.identity, checkpoint.commitment
        self._store.delete(identity.manifest_key)
        self._failpoints.reach(Point.COLLECT_AFTER_MANIFEST)
        freed = self._clear(identity.prefix, live)
        self._failpoints.reach(Point.COLLECT_AFTER_PARTS)
        borrowed = commitment.borrowed if commitment is not None else {}
        for key in live.lacking(borrowed):
            self._store.delete(key)
            freed += borrowed[key]
        self._failpoints.reach(Point.COLLECT_AFTER_BORROWED)
        return freed

    def _clear(self, prefix: str, live: Holdings) -> int:
        """Remove what lies below the prefix of a checkpoint that is gone, but for what live ones borrow."""
        infos = list(self._store.list(prefix))
        lent = live.lent_by(prefix)
        removed = [info for info in infos if info.key not in lent]
        if not lent:
            self._store.delete_prefix(prefix)
        else:
            for info in removed:
                self._store.delete(info.key)
        return sum(info.size for info in removed)

    async def _owned(self, project: str, run: str) -> tuple[set[str], Holdings]:
        states = set(State) - {State.DELETED, State.ABANDONED}

        def look(session: Session) -> tuple[set[str], Holdings]:
            rows = catalogue.of_run(session, project, run, states)
            return {row.id for row in rows}, catalogue.held(session, project, run)

        return await self._db.read(look)

    def _sweep_unowned(self, project: str, run: str, owned: Collection[str], live: Holdings) -> None:
        """Remove what a writer that was replaced wrote after its checkpoint had been given up."""
        limit = self._clock.now() - timedelta(seconds=self._limits.stale_seconds)
        prefix = run_prefix(project, run)
        newest: dict[str, datetime] = {}
        for info in self._store.list(prefix):
            folder = info.key.removeprefix(prefix).partition("/")[0]
            newest[folder] = max(newest.get(folder, info.modified), info.modified)
        for folder, modified in newest.items():
            position = split_step_id(folder)
            if position is None:
                continue
            identity = Identity(project, run, *position)
            if identity.id not in owned and modified < limit and not self._store.exists(identity.manifest_key):
                freed = self._clear(identity.prefix, live)
                if freed:
                    log.info("objects without a checkpoint removed", prefix=identity.prefix, bytes=freed)


def _candidate(checkpoint: Checkpoint, now: datetime) -> Candidate:
    identity = checkpoint.identity
    return Candidate(
        id=identity.id,
        step=identity.step,
        epoch=identity.epoch,
        intact=checkpoint.state is State.COMMITTED,
        pinned=checkpoint.pinned,
        leased=checkpoint.is_leased(now),
        metrics=dict(checkpoint.committed.description.metrics),
    )
