"""Work of many callers on few threads, what waits together done together.

A transaction costs more than what is done in it: on SQLite a connection, its beginning and its end take four times the
CPU of the read of one row. So a thread that becomes free takes all that waits. One that is slow holds up only what it
took: after a moment another thread takes the rest.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

F = TypeVar("F")

LARGEST_GROUP = 32
_PATIENCE_SECONDS = 0.002
"""How long work waits for a busy thread before another one is woken."""
_BACKLOG = 16
"""Items waiting for each busy thread at which another one is woken at once."""
_COMPANY_SECONDS = 0.001
"""How long an item waits for others in a crowd: alone, each would cost as much as all of them together."""
_CROWD_SECONDS = 0.05
"""A crowd is where several were carried out together no longer than this ago."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one item came to: a result, or the error that it raised."""

    result: object = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Item(Generic[F]):
    work: F
    done: asyncio.Future[object]
    loop: asyncio.AbstractEventLoop


class Grouping(Generic[F]):
    """Hands waiting items to `carry_out`, which returns an outcome for each, in order."""

    def __init__(self, threads: int, name: str, carry_out: Callable[[Sequence[F]], Sequence[Outcome]]) -> None:
        self._threads = threads
        self._carry_out = carry_out
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: deque[_Item[F]] = deque()
        self._busy = 0
        self._looker: asyncio.AbstractEventLoop | None = None
        self._crowded = -_CROWD_SECONDS

    async def run(self, work: F) -> object:
        """Have an item carried out, with others or alone, and return its result or raise its error."""
        loop = asyncio.get_running_loop()
        item = _Item(work, loop.create_future(), loop)
        with self._lock:
            self._waiting.append(item)
            alone = time.monotonic() - self._crowded > _CROWD_SECONDS
            backlog = len(self._waiting) > _BACKLOG * max(1, self._busy)
            wake = self._busy < self._threads and (backlog or (alone and not self._busy))
            self._busy += wake
            look = not wake and self._looker is not loop and self._busy < self._threads
            if look:
                self._looker = loop
            patience = _PATIENCE_SECONDS if self._busy else _COMPANY_SECONDS
        if wake:
            self._pool.submit(self._drain)
        elif look:
            loop.call_later(patience, self._look_again)
        return await item.done

    def beside(self, job: Callable[[], None]) -> None:
        """Do something else on one of the threads, when one is free."""
        self._pool.submit(job)

    def close(self) -> None:
        """Wait for what was begun or waits."""
        self._pool.shutdown(wait=True)

    def _look_again(self) -> None:
        with self._lock:
            self._looker = None
            wake = bool(self._waiting) and self._busy < self._threads
            self._busy += wake
        if wake:
            self._pool.submit(self._drain)

    def _drain(self) -> None:
        while group := self._take():
            outcomes = self._outcomes([item.work for item in group])
            for loop in {item.loop for item in group}:
                own = [pair for pair in zip(group, outcomes, strict=True) if pair[0].loop is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_deliver, own)

    def _outcomes(self, works: Sequence[F]) -> Sequence[Outcome]:
        try:
            return self._carry_out(works)
        except BaseException as error:  # else nobody would ever hear of these items
            return [Outcome(error=error)] * len(works)

    def _take(self) -> list[_Item[F]]:
        group: list[_Item[F]] = []
        with self._lock:
            while self._waiting and len(group) < LARGEST_GROUP:
                item = self._waiting.popleft()
                if not item.done.cancelled():
                    group.append(item)
            self._busy -= not group
            if len(group) > 1:
                self._crowded = time.monotonic()
        return group


def _deliver(pairs: Sequence[tuple[_Item[F], Outcome]]) -> None:
    for item, outcome in pairs:
        if item.done.done():
            continue
        if outcome.error is not None:
            item.done.set_exception(outcome.error)
        else:
            item.done.set_result(outcome.result)
