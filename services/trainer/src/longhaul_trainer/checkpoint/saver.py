"""Saves without holding up the step.

The step only starts the copy to host memory and, before the next update, waits for its end. A background thread then
digests and uploads each part, and rank 0 commits. While an upload is under way no other begins: a save that falls due
is put off to the next step at which every rank is free, so that a store that is away delays checkpoints, not training.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.errors import DataLoss, FailedPrecondition, LonghaulError
from longhaul_core.failpoints import Failpoints
from longhaul_core.manifests import Part, put_part
from longhaul_core.objects import ObjectStore

from longhaul_trainer.checkpoint.catalogue import Catalogue, Commit, Reservation
from longhaul_trainer.checkpoint.local_tier import LocalTier
from longhaul_trainer.checkpoint.part_set import PartSet
from longhaul_trainer.checkpoint.patience import GaveUp, Patience
from longhaul_trainer.checkpoint.peer_tier import PeerTier
from longhaul_trainer.checkpoint.points import SavePoint
from longhaul_trainer.checkpoint.receipts import Announcement, Receipt, Receipts
from longhaul_trainer.checkpoint.trainer_state import TRAINER_STATE_FILE, TrainerState

UPLOAD_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Stored:
    """Parts of a committed checkpoint by file name: those whose bytes are still the same need not be written again."""

    position: int
    parts: Mapping[str, Part]

    @classmethod
    def of(cls, position: int, parts: Sequence[Part]) -> Stored:
        """The parts under their names within the checkpoint."""
        return cls(position, {part.key.rpartition("/")[2]: part for part in parts})


@dataclass(frozen=True, slots=True)
class Saved:
    """A commit that rank 0 saw. Times in seconds."""

    name: str
    step: int
    stall_seconds: float
    write_seconds: float


class SaveListener(Protocol):
    """Hears how saving goes; called from the background thread."""

    def checkpoint_committed(self, saved: Saved) -> None:
        """The checkpoint is visible."""
        ...

    def checkpoint_delayed(self, step: int, error: Exception) -> None:
        """A try failed; another follows."""
        ...

    def checkpoint_failed(self, step: int, error: Exception) -> None:
        """This checkpoint was given up."""
        ...


@dataclass(slots=True)
class _Save:
    state: TrainerState
    staged: threading.Event
    started: float
    stall_seconds: float = 0.0
    delays: int = 0


class Saver:
    """Asynchronous checkpoints of one rank.

    On rank 0 `before_commit` is given the position once all parts are written; the commit waits for it. ``documents``
    gives parts of this rank that steps do not change, at each save.
    """

    def __init__(
        self,
        sets: Sequence[PartSet],
        store: ObjectStore,
        receipts: Receipts,
        listener: SaveListener,
        *,
        rank: int,
        ranks: int,
        catalogue: Catalogue | None,
        before_commit: Callable[[int], None] | None = None,
        upload_seconds: float = UPLOAD_SECONDS,
        near: LocalTier | None = None,
        peers: PeerTier | None = None,
        failpoints: Failpoints | None = None,
        stored: Stored | None = None,
        documents: Callable[[], Mapping[str, bytes]] = dict,
    ) -> None:
        self._sets = sets
        self._documents = documents
        self._store = store
        self._receipts = receipts
        self._listener = listener
        self._rank, self._ranks = rank, ranks
        self._catalogue = catalogue
        self._before_commit = before_commit
        self._upload_seconds = upload_seconds
        self._near = near
        self._peers = peers
        self._failpoints = failpoints or Failpoints()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._stop = threading.Event()
        self._stored = {stored.position: stored} if stored is not None else {}
        self._basis = stored.position if stored is not None else -1
        self._present: tuple[_Save, Future[bool]] | None = None
        self.superseded = False

    @property
    def busy(self) -> bool:
        """Whether a save is still on its way."""
        return self._present is not None and not self._present[1].done()

    def start(self, state: TrainerState) -> None:
        """Begins to save the tensors as they are now; they must not change before ``join_staging`` returns."""
        assert not self.busy
        save = _Save(state, threading.Event(), time.monotonic())
        self._present = (save, self._thread.submit(self._run, save))

    def join_staging(self) -> float:
        """Waits until the tensors may change again; returns the seconds waited."""
        if self._present is None or self._present[0].staged.is_set():
            return 0.0
        save = self._present[0]
        started = time.perf_counter()
        save.staged.wait()
        save.stall_seconds += (waited := time.perf_counter() - started)
        return waited

    def finish(self, seconds: float) -> bool:
        """Waits for the present save, at most so long; returns whether it was committed (on rank 0) or written."""
        if self._present is None:
            return True
        try:
            return self._present[1].result(timeout=seconds)
        except TimeoutError:
            return False

    def close(self) -> None:
        """Gives up what is not written yet."""
        self._stop.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, save: _Save) -> bool:
        with torch.no_grad():
            try:
                for parts in self._sets:
                    parts.fill()
            finally:
                save.staged.set()
        self._failpoints.reach(SavePoint.AFTER_STAGING)
        step = save.state.position
        patience = Patience(time.monotonic() + self._upload_seconds, self._stop, self._notice(save))
        try:
            if self._catalogue is None:
                self._write_parts(save, patience)
            else:
                self._lead(save, patience, self._catalogue)
        except (LonghaulError, OSError, RuntimeError) as error:
            self.superseded |= isinstance(error, FailedPrecondition) and error.reason == "STALE_EPOCH"
            self._listener.checkpoint_failed(step, error)
            return False
        for parts in self._sets:
            parts.learn()
        return True

    def _write_parts(self, save: _Save, patience: Patience) -> None:
        """Other ranks: upload below the announced prefix, then say what was written."""
        step = save.state.position
        announcement = self._receipts.announced(step, patience.deadline, self._stop)
        if not announcement.prefix:
            raise GaveUp("rank 0 gave this checkpoint up")
        try:
            receipt = Receipt(parts=tuple(self._upload(step, announcement, patience)))
        except (LonghaulError, OSError) as error:
            self._receipts.hand_in(step, self._rank, Receipt(failure=str(error)))
            raise
        self._receipts.hand_in(step, self._rank, receipt)

    def _lead(self, save: _Save, patience: Patience, catalogue: Catalogue) -> None:
        """Rank 0: reserve, upload, collect all receipts, commit."""
        state = save.state
        try:
            reservation = patience.persist(lambda: catalogue.begin(state.position, state.epoch, self._ranks))
        except LonghaulError:
            self._receipts.announce(state.position, Announcement())
            raise
        announcement = Announcement(prefix=reservation.prefix, basis=self._basis)
        self._receipts.announce(state.position, announcement)
        parts = self._upload(state.position, announcement, patience)
        key = f"{reservation.prefix.rstrip('/')}/{TRAINER_STATE_FILE}"
        document = state.model_dump_json(indent=1).encode()
        parts.append(patience.persist(lambda: put_part(self._store, key, document)))
        self._receipts.hand_in(state.position, self._rank, Receipt(parts=tuple(parts)))
        receipts = self._receipts.collect(state.position, self._ranks, patience.deadline, self._stop)
        failures = [f"rank {rank}: {receipt.failure}" for rank, receipt in enumerate(receipts) if receipt.failure]
        if failures:
            raise GaveUp("; ".join(failures))
        commit = _commit(reservation, state, [part for receipt in receipts for part in receipt.parts])
        if (prepare := self._before_commit) is not None:
            patience.persist(lambda: prepare(state.position))
        self._failpoints.reach(SavePoint.BEFORE_COMMIT)
        try:
            patience.persist(lambda: catalogue.commit(commit))
        except (DataLoss, FailedPrecondition):
            self._basis = -1
            raise
        self._basis = state.position
        self._failpoints.reach(SavePoint.AFTER_COMMIT)
        self._listener.checkpoint_committed(
            Saved(reservation.name, state.position, save.stall_seconds, time.monotonic() - save.started)
        )

    def _upload(self, position: int, announcement: Announcement, patience: Patience) -> list[Part]:
        """Writes this rank's parts, but for those that are in the basis already."""
        basis = self._stored.get(announcement.basis)
        known = basis.parts if basis is not None else {}
        prefix = announcement.prefix.rstrip("/")
        parts = []
        contents = [(image.name, image.data) for held in self._sets for image in held.images]
        contents += [(name, memoryview(document)) for name, document in self._documents().items()]
        for name, data in contents:
            part = self._place(name, data, prefix, known.get(name), patience)
            parts.append(part)
            if self._peers is not None and not self._stop.is_set():
                self._peers.keep(part, data)
            self._failpoints.reach(SavePoint.AFTER_FIRST_PART)
        self._failpoints.reach(SavePoint.AFTER_PARTS)
        kept = {announcement.basis: basis} if basis is not None else {}
        self._stored = {**kept, position: Stored.of(position, parts)}
        return parts

    def _place(self, name: str, data: memoryview, prefix: str, before: Part | None, patience: Patience) -> Part:
        """The part with these bytes: the one before, where they did not change, else a new one."""
        checkpoint, digest = prefix.rpartition("/")[2], hash_bytes(data)
        if before is not None and (before.digest, before.size) == (digest, len(data)):
            if self._near is not None:
                self._near.carry(checkpoint, before)
            return before
        key = f"{prefix}/{name}"
        patience.persist(lambda: self._store.put(key, data))
        part = Part(key=key, size=len(data), digest=digest)
        if self._near is not None:
            self._near.keep(checkpoint, part, data)
        return part

    def _notice(self, save: _Save) -> Callable[[Exception], None]:
        def delayed(error: Exception) -> None:
            save.delays += 1
            if save.delays == 1:
                self._listener.checkpoint_delayed(save.state.position, error)

        return delayed


def _commit(reservation: Reservation, state: TrainerState, parts: Sequence[Part]) -> Commit:
    metrics = {"loss": state.loss, "validation_loss": state.validation_loss}
    return Commit(
        name=reservation.name,
        epoch=state.epoch,
        parts=parts,
        tokens=state.tokens,
        metrics={name: value for name, value in metrics.items() if value is not None},
        parent=state.lineage.parent,
        lineage={
            **state.lineage.model_dump(exclude={"parent", "environment"}),
            **{f"environment.{name}": value for name, value in state.lineage.environment.items()},
            "sample_cursor": state.sample_cursor,
            "training_step": state.step,
        },
    )
