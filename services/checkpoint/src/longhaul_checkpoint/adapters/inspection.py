"""Whether committed checkpoints are still intact, and which one is the latest that is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import DataLoss, NotFound
from longhaul_core.logging import get_logger
from longhaul_core.objects.store import ObjectStore

from longhaul_checkpoint.adapters import catalogue, manifests
from longhaul_checkpoint.adapters.instruments import Instruments
from longhaul_checkpoint.adapters.records import checkpoint_of, head_of
from longhaul_checkpoint.adapters.settling import Settler
from longhaul_checkpoint.adapters.single_flight import SingleFlight
from longhaul_checkpoint.adapters.verification import PartVerifier
from longhaul_checkpoint.domain.checkpoint import VISIBLE_STATES, Checkpoint, Commitment
from longhaul_checkpoint.domain.parts import Damage, Part

log = get_logger(__name__)

MANIFEST_PART = "manifest.json"


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint as it is after a look at its parts; `bytes_read` is 0 where they were untouched since the last."""

    row: ResourceRow
    damages: tuple[Damage, ...]
    bytes_read: int


class Inspector:
    """Verifies committed checkpoints."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        clock: Clock,
        verifier: PartVerifier,
        settler: Settler,
        instruments: Instruments,
        reverify_seconds: float,
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._verifier = verifier
        self._settler = settler
        self._reverify_seconds = reverify_seconds
        self._instruments = instruments
        self._flights: SingleFlight[Inspection] = SingleFlight()

    async def latest(self, project: str, run: str, maximum_step: int = 0) -> ResourceRow:
        """Return the newest intact checkpoint on a run's line; damaged ones are marked and passed over.

        Raises:
            NotFound: there is none (NO_CHECKPOINT).
        """
        await self._settler.settle_run(project, run)
        row = await self._db.read(partial(_newest, project=project, run=run, maximum_step=maximum_step))
        while row is not None:
            inspection = await self.inspect(row, full=False)
            if not inspection.damages:
                return inspection.row
            start = checkpoint_of(row).committed.previous
            row = await self._db.read(partial(_next, project=project, start=start, maximum_step=maximum_step))
        raise NotFound(
            f"run {run!r} has no intact checkpoint",
            reason="NO_CHECKPOINT",
            metadata={"run": run, "maximum_step": str(maximum_step)},
            action="start from the first step",
        )

    async def verify(self, project: str, identifier: str) -> Inspection:
        """Read every part of a checkpoint again. Raises NotFound, FailedPrecondition (not committed)."""
        row = await self._db.read(lambda session: catalogue.get(session, project, identifier))
        return await self.inspect(row, full=True)

    async def inspect(self, row: ResourceRow, *, full: bool) -> Inspection:
        """Verify one checkpoint; unless `full`, the bytes are read only where the objects changed or time has come.

        A repeated call joins the one that is under way.
        """
        return await self._flights.run((row.uid, full), lambda: self._inspect(row, full))

    async def close(self) -> None:
        """Break off the verifications that are under way."""
        await self._flights.close()

    async def _inspect(self, row: ResourceRow, full: bool) -> Inspection:
        checkpoint = checkpoint_of(row)
        try:
            parts = await asyncio.to_thread(self._parts, checkpoint, checkpoint.committed)
        except (DataLoss, NotFound) as error:
            damage = Damage(MANIFEST_PART, error.reason, error.message)
            return Inspection(await self._save(row, [damage], ""), (damage,), 0)
        seen = await asyncio.to_thread(manifests.sighting, self._store, parts)
        if not full and self._is_fresh(checkpoint.committed, seen):
            return Inspection(row, (), 0)
        damages = await self._verifier.verify(parts)
        size = sum(part.size for part in parts)
        self._instruments.verified_bytes.inc(size)
        return Inspection(await self._save(row, damages, seen), tuple(damages), size)

    def _parts(self, checkpoint: Checkpoint, commitment: Commitment) -> list[Part]:
        manifest = manifests.read(self._store, checkpoint.identity)
        if manifest.digest != commitment.digest:
            raise DataLoss(
                f"manifest {checkpoint.identity.manifest_key!r} is not the one that was committed",
                reason="MANIFEST_DIFFERS",
            )
        return manifests.parts_of(manifest, checkpoint.identity)

    def _is_fresh(self, commitment: Commitment, seen: str) -> bool:
        age = (self._clock.now() - commitment.verify_time).total_seconds()
        return seen != "" and seen == commitment.seen and age < self._reverify_seconds

    async def _save(self, row: ResourceRow, damages: Sequence[Damage], seen: str) -> ResourceRow:
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            current = catalogue.get(session, row.project, row.id, for_update=True)
            if current.state not in VISIBLE_STATES:
                return current
            verified = checkpoint_of(current).verified(list(damages), seen, now)
            return catalogue.save(session, current, verified, cause="DAMAGED" if damages else "VERIFIED", now=now)

        saved = await self._db.run(transact)
        if damages:
            self._instruments.damaged.inc()
            log.error("checkpoint damaged", checkpoint=row.id, part=damages[0].part, reason=damages[0].reason)
        return saved


def _newest(session: Session, *, project: str, run: str, maximum_step: int) -> ResourceRow | None:
    row = catalogue.find_run(session, project, run)
    return catalogue.next_on_line(session, project, head_of(row).checkpoint, maximum_step) if row else None


def _next(session: Session, *, project: str, start: str, maximum_step: int) -> ResourceRow | None:
    return catalogue.next_on_line(session, project, start, maximum_step)
