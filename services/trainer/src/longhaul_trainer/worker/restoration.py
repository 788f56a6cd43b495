"""Restores the model and the optimizer of one rank from checkpoints: at the start of an epoch, and for a rewind."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from longhaul_core.errors import DataLoss, LonghaulError, NotFound
from longhaul_core.logging import get_logger
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import ObjectStore
from torch import nn

from longhaul_trainer.checkpoint.catalogue import CheckpointService
from longhaul_trainer.checkpoint.local_tier import LocalTier, open_near_tier
from longhaul_trainer.checkpoint.peer_tier import PeerTier
from longhaul_trainer.checkpoint.restore import (
    MODEL_PART,
    OPTIMIZER_PART,
    STORE,
    rank_suffix,
    read_trainer_state,
    restore_slices,
)
from longhaul_trainer.checkpoint.saver import Stored
from longhaul_trainer.checkpoint.slices import model_slices, optimizer_slices
from longhaul_trainer.checkpoint.trainer_state import TrainerState
from longhaul_trainer.loop.report import Reporter
from longhaul_trainer.loop.stops import AttemptFailed
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.group import RankGroup
from longhaul_trainer.wire import Assignment, Phase

PLACES = (LocalTier.name, PeerTier.name, STORE)
"""Where bytes are read from, the nearest first."""

_log = get_logger(__name__)


class Restoration:
    """What a rank loads, and where from. ``stored``: parts of the checkpoint that the epoch began with."""

    def __init__(
        self,
        assignment: Assignment,
        store: ObjectStore,
        group: RankGroup,
        model: nn.Module,
        update: Update,
        reporter: Reporter,
        peers: PeerTier | None = None,
    ) -> None:
        self._assignment = assignment
        self._store = store
        self._group = group
        self._model, self._update = model, update
        self._reporter = reporter
        self.peers = peers
        self.stored: Stored | None = None

    def resume(self, manifest: Manifest) -> TrainerState:
        """Loads the checkpoint that the epoch begins with, and returns its state as it was saved.

        Raises:
            AttemptFailed: it is damaged; the service has been asked to look at it.
        """
        self._reporter.phase(Phase.RESTORING, 0)
        begun = time.monotonic()
        try:
            state, read = self._load(manifest)
        except DataLoss as error:
            raise self._damaged(error, self._assignment.resume_checkpoint) from error
        sums = self._group.sum([float(read[place]) for place in PLACES])
        self.stored = Stored.of(state.position, manifest.parts)
        _log.info("checkpoint restored", checkpoint=manifest.name, step=state.step, **read)
        if self._group.rank == 0:
            data: dict[str, str | float] = {"step": state.step, "seconds": round(time.monotonic() - begun, 3)}
            data |= {f"bytes_{place}": count for place, count in zip(PLACES, sums, strict=True)}
            self._reporter.event("RESTORED", "RESUME", f"Resumed from {manifest.name}", data)
        return state

    def go_back(self, maximum_position: int) -> TrainerState | None:
        """Restores the newest checkpoint of at most this position on every rank; None where there is none.

        Raises:
            AttemptFailed: it is damaged. Model and optimizer hold parts of it, so that no step can follow.
        """
        found = self._find_earlier(maximum_position) if self._group.rank == 0 else b""
        key = self._group.gather_documents(found)[0].decode()
        if not key:
            return None
        manifest = read_manifest(self._store, key)
        try:
            return self._load(manifest)[0]
        except DataLoss as error:
            raise self._damaged(error, manifest.name) from error

    def near_tier(self) -> LocalTier | None:
        """This rank's parts on the machine's own disk."""
        assignment = self._assignment
        return open_near_tier(assignment.object_store_url, Path(assignment.scratch_dir), self._group.rank)

    def catalogue(self) -> CheckpointService:
        """The checkpoint service."""
        assignment = self._assignment
        return CheckpointService(
            assignment.checkpoint_address,
            assignment.run_name,
            assignment.token.get_secret_value(),
            assignment.tls_ca_pem.encode() or None,
        )

    def _find_earlier(self, maximum_position: int) -> bytes:
        try:
            return self.catalogue().latest(maximum_position).manifest_key.encode()
        except NotFound:
            return b""

    def _load(self, manifest: Manifest) -> tuple[TrainerState, Counter[str]]:
        """The state, and the bytes that this rank read from each place."""
        state = read_trainer_state(self._store, manifest)
        own, tier = rank_suffix(self._group.rank, self._group.size), self.near_tier()
        near = [place for place in (tier, self.peers) if place is not None]
        read: Counter[str] = Counter()
        for kind, slices in (
            (MODEL_PART, model_slices(self._model)),
            (OPTIMIZER_PART, optimizer_slices(self._model, self._update)),
        ):
            read += restore_slices(self._store, manifest, kind, slices, prefer=own, near=near)
        return state, read

    def _damaged(self, error: DataLoss, checkpoint: str) -> AttemptFailed:
        """Has the service look at the checkpoint, so that the next attempt takes an intact one."""
        self._reporter.event("CHECKPOINT_DAMAGED", error.reason, str(error), dict(error.metadata))
        try:
            self.catalogue().report_damage(checkpoint)
        except LonghaulError as unreported:
            _log.warning("damage not reported", error=str(unreported))
        return AttemptFailed(str(error), reason=error.reason, metadata=error.metadata)
