"""Keeps a store equal to a collection of the API server: list once, then watch from there, for ever.

A cut or ended watch goes on after the last version seen; a history that is gone (410) is listed again; refusals and
outages are waited out with growing pauses while the store stays as it was and its age grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic

from longhaul_core.clock import Clock
from longhaul_core.cluster.kubernetes.api import Api, Collection, Raw
from longhaul_core.cluster.kubernetes.errors import ResumePointGoneError, asked_pause
from longhaul_core.cluster.kubernetes.store import R, Store
from longhaul_core.cluster.kubernetes.timing import Backoff, Timing
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

log = get_logger(__name__)


@dataclass(slots=True)
class Reflector(Generic[R]):
    """One list-and-watch loop.

    Callbacks: `changed` for each record that came, changed or went; `relisted` after each list; `recovered` with the
    seconds for which nothing was heard, when an outage ends.
    """

    api: Api
    collection: Collection
    parse: Callable[[Raw], R]
    store: Store[R]
    clock: Clock
    timing: Timing
    changed: Callable[[R], None]
    relisted: Callable[[], None]
    recovered: Callable[[float], None] = lambda _: None
    heard_at: float = float("-inf")
    listed: bool = False
    _version: str = ""
    _synced: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: LonghaulError | None = None

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(self.timing.backoff_base, self.timing.backoff_longest)
        while True:
            began = self.clock.monotonic()
            try:
                if not self._version:
                    await self._list()
                if await self._watch() or self.clock.monotonic() - began > self.timing.backoff_base:
                    backoff.succeeded()
                    continue
                pause = backoff.next_pause()  # a server that ends every watch at once is not asked in a loop
            except ResumePointGoneError:
                self._version = ""
                pause = backoff.next_pause(first_free=True)
            except LonghaulError as error:
                self._fail(error)
                asked = asked_pause(error)
                pause = backoff.next_pause(min(asked, self.timing.backoff_longest), first_free=True)
            await self.clock.sleep(pause)

    async def synced(self) -> None:
        """Wait for the first list. Raises what the first attempt at it raised."""
        await self._synced.wait()
        if not self.listed and self._failure is not None:
            raise self._failure

    def age(self) -> float:
        """Seconds since the server was last heard."""
        return self.clock.monotonic() - self.heard_at

    async def _list(self) -> None:
        listing = await self.api.list_all(self.collection)
        self._version = listing.version
        self.store.replace((self.parse(raw) for raw in listing.items), listing.version, self.collection.namespace)
        self.listed = True
        self._heard()
        self.relisted()
        self._synced.set()

    async def _watch(self) -> bool:
        """One window; whether anything came in it."""
        events = self.api.watch(self.collection, self._version, self.timing.window, self.timing.window_slack)
        count = 0
        async with aclosing(events) as stream:
            async for event in stream:
                self._heard()
                if event:
                    self._apply(event["type"], event["object"])
                    count += 1
        return count > 0

    def _apply(self, type_: str, raw: Raw) -> None:
        self._version = raw["metadata"]["resourceVersion"]
        if type_ == "BOOKMARK":
            return
        record = self.parse(raw)
        known = self.store.remove(record.key, record.uid) if type_ == "DELETED" else self.store.put(record)
        if known:
            self.changed(record)

    def _heard(self) -> None:
        silence = self.age()
        self.heard_at = self.clock.monotonic()
        if self._failure is not None:
            log.info("cluster watch recovered", resource=self.collection.resource, outage_seconds=round(silence, 1))
            self._failure = None
            self.recovered(silence)

    def _fail(self, error: LonghaulError) -> None:
        if self._failure is None:
            log.warning(
                "cluster watch interrupted",
                resource=self.collection.resource,
                namespace=self.collection.namespace,
                reason=error.reason,
                error=str(error),
            )
        self._failure = error
        self._synced.set()
