"""The head of a run: which epoch may write, and which checkpoint the next attempt starts from.

Each committed checkpoint links to the one before it (`parent`), and the head names the newest on the run's present
line. A roll-back registers its epoch with an earlier checkpoint: the head moves there, and what was written after it on
the abandoned line is never "latest" again, even if its step is higher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from longhaul_core.errors import Aborted


@dataclass(frozen=True, slots=True)
class RunHead:
    """Fencing epoch and newest checkpoint of a run; `checkpoint` is empty before the first commit."""

    run: str
    epoch: int = 0
    attempt: str = ""
    checkpoint: str = ""

    def register(self, epoch: int, attempt: str, resume: str | None) -> RunHead:
        """Return the head after `epoch` took over; `resume` moves it to the checkpoint that the epoch starts from.

        Raises:
            Aborted: the epoch is older than the present one, or it is the present one of another attempt.
        """
        if epoch < self.epoch or (epoch == self.epoch and attempt != self.attempt):
            raise stale_epoch(self, epoch)
        if epoch == self.epoch:
            return self
        head = replace(self, epoch=epoch, attempt=attempt)
        return head if resume is None else replace(head, checkpoint=resume)

    def check_writer(self, epoch: int) -> None:
        """Refuse a writer whose epoch is not the registered one.

        Raises:
            Aborted: the epoch is older, or was never registered.
        """
        if epoch != self.epoch:
            raise stale_epoch(self, epoch)

    def advance(self, checkpoint: str) -> RunHead:
        """Return the head after the commit of `checkpoint`."""
        return replace(self, checkpoint=checkpoint)


def stale_epoch(head: RunHead, epoch: int) -> Aborted:
    """Return the error for a writer that another epoch has replaced."""
    return Aborted(
        f"epoch {epoch} of run {head.run!r} may not write: epoch {head.epoch} is registered",
        reason="STALE_EPOCH" if epoch <= head.epoch else "UNREGISTERED_EPOCH",
        metadata={"run": head.run, "epoch": str(epoch), "registered_epoch": str(head.epoch)},
        action="stop this attempt; the controller has started a newer one"
        if epoch <= head.epoch
        else "register the epoch first",
    )
