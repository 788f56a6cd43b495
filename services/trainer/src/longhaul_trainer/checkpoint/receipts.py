"""How the ranks tell rank 0 which parts they have written: the epoch's key-value store, not a collective.

A collective in a background thread could cross those of the step; a key cannot.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from longhaul_core.manifests import Part
from pydantic import BaseModel, ConfigDict
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import DistStoreError

from longhaul_trainer.checkpoint.patience import GaveUp

_POLL = timedelta(seconds=1)


class Receipt(BaseModel):
    """What one rank wrote, or why it could not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: tuple[Part, ...] = ()
    failure: str = ""


class Announcement(BaseModel):
    """Where the parts of a checkpoint go, and the position of the one whose unchanged parts may be named again.

    ``prefix`` is empty when the checkpoint is given up; ``basis`` is -1 when every part is to be written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = ""
    basis: int = -1


class Receipts:
    """Exchange of prefix and receipts of the checkpoints of one epoch."""

    def __init__(self, store: Store) -> None:
        self._store = PrefixStore("checkpoint", store)

    def announce(self, step: int, announcement: Announcement) -> None:
        """Rank 0: where the parts of this step go."""
        self._store.set(f"{step}/prefix", announcement.model_dump_json())

    def announced(self, step: int, deadline: float, stop: threading.Event) -> Announcement:
        """Other ranks: waits for the announcement."""
        return Announcement.model_validate_json(self._await(f"{step}/prefix", deadline, stop))

    def hand_in(self, step: int, rank: int, receipt: Receipt) -> None:
        """Each rank: what it wrote."""
        self._store.set(f"{step}/receipt/{rank}", receipt.model_dump_json())

    def collect(self, step: int, ranks: int, deadline: float, stop: threading.Event) -> list[Receipt]:
        """Rank 0: waits for every rank's receipt."""
        keys = [f"{step}/receipt/{rank}" for rank in range(ranks)]
        return [Receipt.model_validate_json(self._await(key, deadline, stop)) for key in keys]

    def _await(self, key: str, deadline: float, stop: threading.Event) -> bytes:
        while True:
            try:
                self._store.wait([key], _POLL)
                value: bytes = self._store.get(key)
                return value
            except DistStoreError as error:
                if stop.is_set() or time.monotonic() > deadline:
                    raise GaveUp(f"no answer from another rank under {key}") from error
