"""Reads the next step's batch in a background thread while the present one is trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from longhaul_core.errors import InvalidArgument

from longhaul_trainer.data.permutation import Indices
from longhaul_trainer.data.samples import Batch, SampleOrder, stripe


@dataclass(frozen=True, slots=True)
class Reading:
    """The samples of one step: context stage, first sample in the stage's order, number over all ranks."""

    stage: int
    cursor: int
    samples: int


class Loader:
    """Batches of one data-parallel rank. `delay`: seconds by which a batch is made to come late."""

    def __init__(
        self,
        orders: Sequence[SampleOrder],
        *,
        rank: int,
        ranks: int,
        delay: Callable[[Reading], float] | None = None,
    ) -> None:
        self._orders = list(orders)
        self._rank, self._ranks = rank, ranks
        self._delay = delay
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._ahead: tuple[Reading, Future[Batch]] | None = None
        self.wait_seconds = 0.0

    def take(self, now: Reading, following: Reading) -> Batch:
        """This rank's part of a step; begins to read the step that probably follows."""
        started = time.perf_counter()
        ahead = self._ahead
        pending = ahead[1] if ahead is not None and ahead[0] == now else self._read(now)
        batch = pending.result()
        self.wait_seconds = time.perf_counter() - started
        self._ahead = (following, self._read(following))
        return batch

    def close(self) -> None:
        """Stops reading."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, reading: Reading) -> Future[Batch]:
        if reading.samples % self._ranks:
            raise InvalidArgument(
                f"{self._ranks} ranks do not divide the global batch of {reading.samples} sequences",
                violations=[("data.global_batch_size", f"must be a multiple of {self._ranks}")],
            )
        samples = stripe(reading.cursor, reading.samples, self._rank, self._ranks)
        return self._thread.submit(self._fetch, reading, samples)

    def _fetch(self, reading: Reading, samples: Indices) -> Batch:
        if self._delay is not None:
            time.sleep(self._delay(reading))
        return self._orders[reading.stage].read(samples)
