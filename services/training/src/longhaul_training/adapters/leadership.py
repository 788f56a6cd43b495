"""Leadership: which replica reconciles.

The lease lives in the database and is judged by its clock; the holder stops on its own clock before the lease ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from longhaul_core.clock import Clock
from longhaul_core.db import Database, Lease
from longhaul_core.db import leases as lease_table
from longhaul_core.db.session import Session
from longhaul_core.errors import Aborted, LonghaulError, Unavailable
from longhaul_core.ids import new_uid
from longhaul_core.logging import get_logger

LEASE_NAME = "training-controller"
# The holder stops this share of the lease's life after the renewal was *sent*, so that no clock skew lets it act late.
SAFE_SHARE = 0.8
RENEWALS_PER_LIFE = 4

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Term:
    """A term of leadership; `since` is on this process's monotonic clock."""

    number: int
    since: float


class Leadership:
    """Acquires, renews and gives back the controller's lease."""

    def __init__(self, db: Database, clock: Clock, address: str, life_seconds: float) -> None:
        self._db = db
        self._clock = clock
        self._address = address
        self._life = life_seconds
        self._holder = new_uid()
        self._lease: Lease | None = None
        self._term: Term | None = None
        self._safe_until = 0.0
        self._resigned = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def term(self) -> Term | None:
        """The present term, or None while another replica leads or this one can't be sure."""
        if self._term is None or self._clock.monotonic() >= self._safe_until:
            return None
        return self._term

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` whenever leadership is won or lost."""
        self._listeners.append(listener)

    async def leader_address(self) -> str:
        """Address of the replica that leads, empty when none does."""
        lease = await self._db.read(lambda session: lease_table.find(session, LEASE_NAME))
        return lease.address if lease is not None else ""

    async def run(self, stop: asyncio.Event) -> None:
        """Campaigns until `stop` is set, then gives the lease back."""
        while not stop.is_set() and not self._resigned:
            await self._campaign()
            try:
                await asyncio.wait_for(stop.wait(), self._life / RENEWALS_PER_LIFE)
            except TimeoutError:
                continue
        await self.resign()

    async def resign(self) -> None:
        """Gives the lease back so that another replica takes over at once, and campaigns no more."""
        self._resigned = True
        lease, self._lease = self._lease, None
        self._lose()
        if lease is not None:
            await self._db.run(lambda session: lease_table.release(session, lease))

    async def _campaign(self) -> None:
        sent = self._clock.monotonic()
        try:
            lease = await self._db.run(self._hold)
        except Unavailable as error:
            log.warning("leadership renewal failed", error=str(error))
            return
        except LonghaulError as error:
            log.warning("leadership lost", error=str(error))
            lease = None
        self._lease = lease
        if lease is None:
            self._lose()
            return
        self._safe_until = sent + SAFE_SHARE * self._life
        if self._term is None or self._term.number != lease.term:
            self._term = Term(lease.term, self._clock.monotonic())
            log.info("leadership won", term=lease.term)
            self._notify()

    def _hold(self, session: Session) -> Lease | None:
        return lease_table.acquire(session, LEASE_NAME, self._holder, self._address, self._life)

    def _lose(self) -> None:
        if self._term is not None:
            log.info("leadership ended", term=self._term.number)
            self._term = None
            self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


def check_term(session: Session, term: int) -> None:
    """Raises Aborted (STALE_TERM) unless `term` is the newest; to be called in every transaction of the controller."""
    lease_table.check_term(session, LEASE_NAME, term)


def is_stale(error: Aborted) -> bool:
    """Whether a write was refused because another replica leads now."""
    return error.reason == "STALE_TERM"
