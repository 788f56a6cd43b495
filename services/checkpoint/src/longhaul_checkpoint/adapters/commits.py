"""The life of a checkpoint up to its commit: fencing, begin, commit, and what a crash in between leaves.

The manifest is the commit: whoever recovers asks whether it is there. The catalogue's transaction decides what is
visible, and it looks at the run's epoch once more, so that an attempt that was replaced while it wrote its manifest is
refused and its objects are swept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, LonghaulError
from longhaul_core.failpoints import Failpoints
from longhaul_core.logging import get_logger
from longhaul_core.manifests import CommitAuthority, write_manifest
from longhaul_core.objects.store import ObjectStore

from longhaul_checkpoint.adapters import catalogue, manifests
from longhaul_checkpoint.adapters.failpoints import Point
from longhaul_checkpoint.adapters.instruments import Instruments
from longhaul_checkpoint.adapters.records import checkpoint_of, head_of
from longhaul_checkpoint.adapters.settling import Settler, lacks_part
from longhaul_checkpoint.adapters.single_flight import SingleFlight
from longhaul_checkpoint.adapters.verification import PartVerifier
from longhaul_checkpoint.domain.checkpoint import (
    VISIBLE_STATES,
    Checkpoint,
    Commitment,
    Description,
    Identity,
    State,
)
from longhaul_checkpoint.domain.lineage import RunHead, stale_epoch
from longhaul_checkpoint.domain.naming import checked_run, run_prefix, split_resource_id
from longhaul_checkpoint.domain.parts import Damage, Part, check_parts

log = get_logger(__name__)

MALFORMED_REASONS = frozenset({"PART_HEADER_INVALID", "PART_NOT_JSON", "PART_TOO_LARGE"})


class Commits:
    """Begins and commits checkpoints of one catalogue and one object store."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        clock: Clock,
        verifier: PartVerifier,
        settler: Settler,
        instruments: Instruments,
        failpoints: Failpoints,
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._verifier = verifier
        self._settler = settler
        self._instruments = instruments
        self._failpoints = failpoints
        self._flights: SingleFlight[ResourceRow] = SingleFlight()

    async def close(self) -> None:
        """Break off the commits that are under way."""
        await self._flights.close()

    async def register(self, project: str, run: str, epoch: int, resume: str) -> int:
        """Fence a run and return the epoch that is registered now.

        Raises:
            FailedPrecondition: a newer epoch is registered (STALE_EPOCH), or `resume` is not committed.
        """
        checked_run(run)
        if epoch < 1:
            raise InvalidArgument("an epoch is at least 1", violations=[("epoch", f"is {epoch}")])
        if resume and split_resource_id(resume)[0] != run:
            raise InvalidArgument(
                f"{resume!r} is no checkpoint of run {run!r}", violations=[("resume_checkpoint", "of another run")]
            )
        await self._settler.settle_run(project, run)
        now = self._clock.now()

        def transact(session: Session) -> int:
            row = catalogue.run_row(session, project, run, now, for_update=True)
            if resume:
                _ = checkpoint_of(catalogue.get(session, project, resume)).committed
            head = head_of(row).register(epoch, resume)
            catalogue.save_run(session, row, head=head, now=now)
            return head.epoch

        return await self._db.run(transact)

    async def begin(self, identity: Identity, world_size: int) -> ResourceRow:
        """Reserve a checkpoint; a higher epoch than the registered one registers itself.

        Raises:
            FailedPrecondition: the epoch was replaced (STALE_EPOCH), or the checkpoint is deleted.
        """
        identity_id = identity.id
        await self._settler.settle_run(identity.project, identity.run)
        self._failpoints.reach(Point.BEGIN_BEFORE_RECORD)
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            run = catalogue.run_row(session, identity.project, identity.run, now, for_update=True)
            catalogue.save_run(session, run, head=head_of(run).register(identity.epoch), now=now)
            row, created = catalogue.begin(session, identity, world_size, now)
            if not created and row.state == State.ABANDONED:
                return catalogue.set_state(session, row, State.BEGUN, cause="BEGUN_AGAIN", now=now)
            if not created and row.state not in {State.BEGUN, *VISIBLE_STATES}:
                raise _gone(identity_id, row.state)
            return row

        row = await self._db.run(transact)
        self._failpoints.reach(Point.BEGIN_AFTER_RECORD)
        return row

    async def commit(
        self,
        project: str,
        identifier: str,
        epoch: int,
        objects: Sequence[tuple[str, int, str]],
        description: Description,
    ) -> ResourceRow:
        """Verify the parts and commit; a repeated call joins the one that is under way.

        Args:
            project: the project.
            identifier: the checkpoint's id.
            epoch: the writer's epoch.
            objects: key, size and digest of each part.
            description: what the writer says beside.

        Raises:
            FailedPrecondition: the epoch was replaced (STALE_EPOCH), or the checkpoint was given up.
            InvalidArgument: a part is no safetensors or JSON (PART_MALFORMED), or the list is invalid.
            DataLoss: a part is missing or differs (PART_MISSING, PART_DAMAGED).
            AlreadyExists: it is committed with other parts.
        """
        key = (project, identifier, epoch, tuple(objects))
        try:
            return await self._flights.run(key, lambda: self._commit(project, identifier, epoch, objects, description))
        except LonghaulError as error:
            self._instruments.refused.labels(error.reason).inc()
            raise

    async def _commit(
        self,
        project: str,
        identifier: str,
        epoch: int,
        objects: Sequence[tuple[str, int, str]],
        description: Description,
    ) -> ResourceRow:
        started = self._clock.monotonic()
        run, _, _ = split_resource_id(identifier)
        await self._settler.settle_run(project, run)
        row, head = await self._db.read(lambda session: _open(session, project, identifier, run))
        checkpoint = checkpoint_of(row)
        identity = checkpoint.identity
        parts = [manifests.part_of(*entry, identity) for entry in objects]
        if checkpoint.state in VISIBLE_STATES:
            return await self._repeated(row, parts)
        _check_writer(checkpoint, head, epoch)
        check_parts(parts, shared_prefix=run_prefix(identity.project, identity.run))
        self._failpoints.reach(Point.COMMIT_BEFORE_VERIFY)
        seen = await asyncio.to_thread(manifests.sighting, self._store, parts)
        _refuse_damaged(checkpoint, await self._verifier.verify(parts))
        row = await self._write(checkpoint, parts, description, head, seen)
        self._instruments.committed.inc()
        self._instruments.committed_bytes.inc(sum(part.size for part in parts))
        self._instruments.commit_seconds.observe(self._clock.monotonic() - started)
        return row

    async def _write(
        self, checkpoint: Checkpoint, parts: Sequence[Part], description: Description, head: RunHead, seen: str
    ) -> ResourceRow:
        identity = checkpoint.identity
        parent = description.parent.rpartition("/")[2]
        previous = head.previous_of(identity.epoch, parent)
        manifest = manifests.build(checkpoint, parts, description, previous)
        self._failpoints.reach(Point.COMMIT_BEFORE_MANIFEST)
        await asyncio.to_thread(
            write_manifest, self._store, identity.manifest_key, manifest, authority=CommitAuthority.of(self._store)
        )
        self._failpoints.reach(Point.COMMIT_AFTER_MANIFEST)
        now = self._clock.now()
        commitment = manifests.commitment_of(manifest, previous=previous, commit_time=now, verify_time=now, seen=seen)
        row = await self._db.run(lambda session: self._record(session, checkpoint, commitment))
        self._failpoints.reach(Point.COMMIT_AFTER_RECORD)
        if row.state == State.ABANDONING:
            fenced = await self._db.read(lambda session: catalogue.find_run(session, identity.project, identity.run))
            newest = head_of(fenced) if fenced else head
            raise stale_epoch(newest, identity.epoch) if newest.epoch > identity.epoch else _part_gone(identity)
        log.info("checkpoint committed", checkpoint=identity.name, bytes=commitment.size_bytes, parts=commitment.parts)
        return row

    def _record(self, session: Session, checkpoint: Checkpoint, commitment: Commitment) -> ResourceRow:
        identity, now = checkpoint.identity, commitment.commit_time
        run = catalogue.run_row(session, identity.project, identity.run, now, for_update=True)
        row = catalogue.get(session, identity.project, identity.id, for_update=True)
        current, head = checkpoint_of(row), head_of(run)
        if current.state in VISIBLE_STATES:
            return row
        if head.epoch > identity.epoch:
            return catalogue.set_state(session, row, State.ABANDONING, cause="STALE_EPOCH", now=now)
        if lacks_part(session, identity, commitment):
            return catalogue.set_state(session, row, State.ABANDONING, cause="PART_GONE", now=now)
        catalogue.save_run(session, run, head=head.advance(identity.id), now=now)
        return catalogue.save(session, row, current.commit(commitment), cause="COMMITTED", now=now)

    async def _repeated(self, row: ResourceRow, parts: Sequence[Part]) -> ResourceRow:
        identity = checkpoint_of(row).identity
        manifest = await asyncio.to_thread(manifests.read, self._store, identity)
        if set(manifests.parts_of(manifest, identity)) != set(parts):
            raise AlreadyExists(
                f"checkpoint {identity.id!r} is committed with other parts",
                reason="SPEC_DIFFERS",
                metadata={"checkpoint": identity.name, "digest": manifest.digest},
                action="raise the epoch before a step is saved again",
            )
        return row


def _open(session: Session, project: str, identifier: str, run: str) -> tuple[ResourceRow, RunHead]:
    row = catalogue.get(session, project, identifier)
    run_row = catalogue.find_run(session, project, run)
    return row, head_of(run_row) if run_row else RunHead(run)


def _check_writer(checkpoint: Checkpoint, head: RunHead, epoch: int) -> None:
    if epoch < head.epoch:
        raise stale_epoch(head, epoch)
    if epoch != checkpoint.identity.epoch:
        raise InvalidArgument(
            f"checkpoint {checkpoint.identity.id!r} is of epoch {checkpoint.identity.epoch}, not {epoch}",
            reason="EPOCH_DIFFERS",
            violations=[("epoch", "is not the epoch of the checkpoint")],
        )
    if checkpoint.state is not State.BEGUN:
        raise _gone(checkpoint.identity.id, checkpoint.state)


def _part_gone(identity: Identity) -> DataLoss:
    return DataLoss(
        f"checkpoint {identity.id!r} is not committed: a part that it borrows went with the checkpoint that wrote it",
        reason="PART_MISSING",
        metadata={"checkpoint": identity.name},
        action="write every part again at the next step that is saved",
    )


def _gone(identifier: str, state: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"checkpoint {identifier!r} is {state} and cannot be written",
        reason="CHECKPOINT_GONE",
        metadata={"state": state},
        action="raise the epoch, or go on to the next step that is saved",
    )


def _refuse_damaged(checkpoint: Checkpoint, damages: Sequence[Damage]) -> None:
    if not damages:
        return
    first = damages[0]
    message = f"checkpoint {checkpoint.identity.id!r} is not committed: part {first.part!r}: {first.detail}"
    metadata = {"part": first.part, "parts_damaged": str(len(damages)), "detail": first.reason}
    if first.reason in MALFORMED_REASONS:
        raise InvalidArgument(
            message,
            reason="PART_MALFORMED",
            metadata=metadata,
            violations=[(damage.part, damage.detail) for damage in damages[:100]],
        )
    reason = "PART_MISSING" if first.reason == "PART_MISSING" else "PART_DAMAGED"
    raise DataLoss(message, reason=reason, metadata=metadata, action="write the part again, then commit again")
