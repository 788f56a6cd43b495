"""The head of a run: which epoch may write, and which checkpoint the next attempt starts from.

Each committed checkpoint links to the one before it, and the head names the newest on the run's present line. A
roll-back registers its epoch with an earlier checkpoint: the head moves there, and what was written after it on the
line that was left is never "latest" again, even if its step is higher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from longhaul_core.errors import FailedPrecondition

from longhaul_checkpoint.domain.naming import split_resource_id


@dataclass(frozen=True, slots=True)
class RunHead:
    """Fencing epoch and newest checkpoint (id) of a run; `checkpoint` is empty before the first commit."""

    run: str
    epoch: int = 0
    checkpoint: str = ""

    def register(self, epoch: int, resume: str = "") -> RunHead:
        """Return the head after `epoch` took over; `resume` moves it to the checkpoint that the epoch begins with.

        Raises:
            FailedPrecondition: the epoch is older than the registered one.
        """
        if epoch < self.epoch:
            raise stale_epoch(self, epoch)
        if epoch == self.epoch:
            return self
        return replace(self, epoch=epoch, checkpoint=resume or self.checkpoint)

    def previous_of(self, epoch: int, parent: str) -> str:
        """Return the id that precedes the next commit: an epoch's first follows the parent it began with, if named."""
        if parent and split_resource_id(parent)[0] == self.run and self._is_older(epoch):
            return parent
        return self.checkpoint

    def _is_older(self, epoch: int) -> bool:
        return not self.checkpoint or split_resource_id(self.checkpoint)[2] < epoch

    def advance(self, checkpoint: str) -> RunHead:
        """Return the head after the commit of `checkpoint`; one that was recovered late never moves the head."""
        _, step, epoch = split_resource_id(checkpoint)
        if epoch != self.epoch:
            return self
        if self.checkpoint:
            _, head_step, head_epoch = split_resource_id(self.checkpoint)
            if head_epoch == epoch and head_step >= step:
                return self
        return replace(self, checkpoint=checkpoint)


def stale_epoch(head: RunHead, epoch: int) -> FailedPrecondition:
    """Return the error for a writer that a newer epoch has replaced."""
    return FailedPrecondition(
        f"epoch {epoch} of run {head.run!r} may not write: epoch {head.epoch} has taken over",
        reason="STALE_EPOCH",
        metadata={"run": head.run, "epoch": str(epoch), "registered_epoch": str(head.epoch)},
        action="stop this attempt; the controller has started a newer one",
    )
