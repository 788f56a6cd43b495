"""Checkpoints left in doubt by a crash, and runs whose catalogue was lost: the manifest decides.

A begun checkpoint whose manifest exists was committed by a process that died before it could say so. It is taken over
if its epoch may still write, and given up if a newer one has taken over. A run that the catalogue does not know is
read back from its manifests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import DataLoss
from longhaul_core.logging import get_logger
from longhaul_core.manifests import Manifest
from longhaul_core.objects.store import ObjectStore

from longhaul_checkpoint.adapters import catalogue, manifests
from longhaul_checkpoint.adapters.records import checkpoint_of, head_of
from longhaul_checkpoint.domain.checkpoint import Checkpoint, Commitment, Identity, State
from longhaul_checkpoint.domain.lineage import RunHead
from longhaul_checkpoint.domain.naming import manifest_prefix, split_step_id

log = get_logger(__name__)


class Settler:
    """Brings the catalogue to what the manifests say."""

    def __init__(self, db: Database, store: ObjectStore, clock: Clock) -> None:
        self._db = db
        self._store = store
        self._clock = clock

    async def settle_all(self) -> None:
        """Settle every begun checkpoint; called before the service answers."""
        begun = await self._db.read(lambda session: catalogue.in_states(session, {State.BEGUN}))
        await self._settle(begun)

    async def settle_run(self, project: str, run: str) -> None:
        """Settle the begun checkpoints of one run, or read the run back where the catalogue does not know it."""

        def look(session: Session) -> tuple[bool, list[ResourceRow]]:
            known = catalogue.find_run(session, project, run) is not None
            return known, catalogue.in_states(session, {State.BEGUN}, project, run) if known else []

        known, begun = await self._db.read(look)
        if known:
            await self._settle(begun)
        else:
            await self._read_back(project, run)

    async def _settle(self, begun: Sequence[ResourceRow]) -> None:
        for row in begun:
            checkpoint = checkpoint_of(row)
            manifest = await self._find(checkpoint.identity)
            if manifest is not None:
                await self._take_over(checkpoint, manifest)

    async def _find(self, identity: Identity) -> Manifest | None:
        try:
            return await asyncio.to_thread(manifests.find, self._store, identity)
        except DataLoss as error:
            log.error("manifest unreadable", checkpoint=identity.name, reason=error.reason, error=error.message)
            return None

    async def _take_over(self, checkpoint: Checkpoint, manifest: Manifest) -> None:
        identity = checkpoint.identity
        now = self._clock.now()

        def transact(session: Session) -> str:
            run = catalogue.run_row(session, identity.project, identity.run, now, for_update=True)
            row = catalogue.get(session, identity.project, identity.id, for_update=True)
            head = head_of(run)
            if row.state != State.BEGUN:
                return row.state
            if head.epoch > identity.epoch:
                return catalogue.set_state(session, row, State.ABANDONING, cause="STALE_EPOCH", now=now).state
            if lacks_part(session, identity, _commitment(manifest, now)):
                return catalogue.set_state(session, row, State.ABANDONING, cause="PART_GONE", now=now).state
            self._adopt(session, run, row, head, manifest)
            return State.COMMITTED

        state = await self._db.run(transact)
        log.info("checkpoint in doubt settled", checkpoint=identity.name, state=state)

    def _adopt(
        self, session: Session, run: ResourceRow, row: ResourceRow, head: RunHead, manifest: Manifest
    ) -> ResourceRow:
        now = self._clock.now()
        recovered = checkpoint_of(row).commit(_commitment(manifest, now))
        catalogue.save(session, row, recovered, cause="RECOVERED", now=now)
        return catalogue.save_run(session, run, head=head.advance(row.id), now=now)

    async def _read_back(self, project: str, run: str) -> None:
        found = await asyncio.to_thread(self._committed, project, run)
        if not found:
            return
        now = self._clock.now()

        def transact(session: Session) -> None:
            row = catalogue.run_row(session, project, run, now, for_update=True)
            for identity, manifest in found:
                head = head_of(row).register(max(identity.epoch, head_of(row).epoch))
                world_size = int(str(manifest.config["world_size"]))
                begun, created = catalogue.begin(session, identity, world_size, now)
                if created:
                    row = self._adopt(session, row, begun, head, manifest)

        await self._db.run(transact)
        log.warning("catalogue of a run read back from its manifests", run=run, project=project, checkpoints=len(found))

    def _committed(self, project: str, run: str) -> list[tuple[Identity, Manifest]]:
        found = []
        prefix = manifest_prefix(project, run)
        for info in self._store.list(prefix):
            position = split_step_id(info.key.removeprefix(prefix).removesuffix(".json"))
            if position is None:
                continue
            identity = Identity(project, run, *position)
            try:
                found.append((identity, manifests.read(self._store, identity)))
            except DataLoss as error:
                log.error("manifest unreadable", checkpoint=identity.name, reason=error.reason, error=error.message)
        return sorted(found, key=lambda item: (item[0].epoch, item[0].step))


def lacks_part(session: Session, identity: Identity, commitment: Commitment) -> bool:
    """Whether a part that a commit borrows is held by no live checkpoint; the run's row must be locked."""
    if not commitment.borrowed:
        return False
    return bool(catalogue.held(session, identity.project, identity.run).lacking(commitment.borrowed))


def _commitment(manifest: Manifest, now: datetime) -> Commitment:
    return manifests.commitment_of(
        manifest, previous=str(manifest.extra["previous"]), commit_time=now, verify_time=manifest.created, seen=""
    )
