"""Tells watchers that the revision moved: at once for commits of this process, by polling for those of others.

One poll a database handle serves all its watchers, and none runs while nobody watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from longhaul_core.errors import LonghaulError, Unavailable
from longhaul_core.logging import get_logger

POLL_SECONDS = 0.5
"""The most that a commit of another replica waits to be seen."""

log = get_logger(__name__)


class RevisionFeed:
    """The newest revision that this process knows of, and whoever waits for a newer one."""

    def __init__(self, read_revision: Callable[[], Awaitable[int]], poll_seconds: float = POLL_SECONDS) -> None:
        self._read_revision = read_revision
        self._poll_seconds = poll_seconds
        self._latest = 0
        self._closed = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poller: asyncio.Task[None] | None = None

    def notify(self, revision: int) -> None:
        """Announce a committed revision; callable from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._advance, revision)

    def close(self) -> None:
        """End all waiting, now and later."""
        self._closed = True
        self._wake()
        if self._poller is not None:
            self._poller.cancel()
            self._poller = None

    async def wait_beyond(self, revision: int) -> None:
        """Wait until a revision above this one is committed.

        Raises:
            Unavailable: The feed was closed because the server stops; watch again elsewhere.
        """
        self._loop = asyncio.get_running_loop()
        while self._latest <= revision and not self._closed:
            if self._poller is None or self._poller.done():
                self._poller = self._loop.create_task(self._poll())
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        if self._closed:
            raise Unavailable(
                "the server is shutting down", reason="SHUTTING_DOWN", action="watch again after the last revision"
            )

    async def _poll(self) -> None:
        failing = False
        while self._waiters:
            await asyncio.sleep(self._poll_seconds)
            try:
                self._advance(await self._read_revision())
                failing = False
            except LonghaulError as error:
                if not failing:
                    log.warning("revision poll failed", reason=error.reason, error=error.message)
                failing = True

    def _advance(self, revision: int) -> None:
        if revision > self._latest:
            self._latest = revision
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
