"""Reads the next step's batch in a background thread while the present one is trained on."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from longhaul_core.errors import InvalidArgument

from longhaul_trainer.data.samples import Batch, SampleOrder, stripe


class Loader:
    """Batches of one rank, by global cursor."""

    def __init__(self, order: SampleOrder, *, global_batch: int, rank: int, ranks: int) -> None:
        if global_batch % ranks:
            raise InvalidArgument(
                f"{ranks} ranks do not divide the global batch of {global_batch} sequences",
                violations=[("data.global_batch_size", f"must be a multiple of {ranks}")],
            )
        self._order = order
        self._global_batch = global_batch
        self._rank, self._ranks = rank, ranks
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._ahead: tuple[int, Future[Batch]] | None = None
        self.wait_seconds = 0.0

    def take(self, cursor: int) -> Batch:
        """This rank's part of the step that starts at the cursor; begins to read the next step's."""
        started = time.perf_counter()
        ahead = self._ahead
        pending = ahead[1] if ahead is not None and ahead[0] == cursor else self._read(cursor)
        batch = pending.result()
        self.wait_seconds = time.perf_counter() - started
        following = cursor + self._global_batch
        self._ahead = (following, self._read(following))
        return batch

    def close(self) -> None:
        """Stops reading."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, cursor: int) -> Future[Batch]:
        samples = stripe(cursor, self._global_batch, self._rank, self._ranks)
        return self._thread.submit(self._order.read, samples)
