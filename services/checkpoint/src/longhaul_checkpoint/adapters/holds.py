"""Pins, leases and recorded metrics: small changes of committed checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

from longhaul_core.clock import Clock
from longhaul_core.db import Database, ResourceRow
from longhaul_core.db.session import Session
from longhaul_core.errors import InvalidArgument
from longhaul_core.ids import ResourceName

from longhaul_checkpoint.adapters import catalogue
from longhaul_checkpoint.adapters.records import checkpoint_of
from longhaul_checkpoint.domain.checkpoint import Checkpoint

MAXIMUM_LEASE_SECONDS = 86_400.0
MAXIMUM_HOLDER_CHARACTERS = 255


class Holds:
    """Says who needs a checkpoint."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def pin(self, name: ResourceName, pinned: bool) -> ResourceRow:
        """Set or end a pin. Raises NotFound, FailedPrecondition (not committed)."""
        return await self._change(name, "PINNED" if pinned else "UNPINNED", lambda it: it.pin(pinned))

    async def lease(self, name: ResourceName, holder: str, seconds: float) -> ResourceRow:
        """Set or renew a holder's lease. Raises NotFound, FailedPrecondition, InvalidArgument."""
        _check_holder(holder)
        if not 0 < seconds <= MAXIMUM_LEASE_SECONDS:
            raise InvalidArgument(
                f"a lease of {seconds} s", violations=[("duration", f"not in 0 to {MAXIMUM_LEASE_SECONDS:.0f} s")]
            )
        now = self._clock.now()
        return await self._change(name, "LEASED", lambda it: it.lease(holder, now + timedelta(seconds=seconds), now))

    async def release(self, name: ResourceName, holder: str) -> ResourceRow:
        """End a holder's lease. Raises NotFound, InvalidArgument."""
        _check_holder(holder)
        now = self._clock.now()
        return await self._change(name, "RELEASED", lambda it: it.release(holder, now))

    async def record(self, name: ResourceName, metrics: Mapping[str, float]) -> ResourceRow:
        """Add metrics. Raises NotFound, FailedPrecondition (not committed)."""
        return await self._change(name, "MEASURED", lambda it: it.record(metrics))

    async def _change(self, name: ResourceName, cause: str, change: Callable[[Checkpoint], Checkpoint]) -> ResourceRow:
        now = self._clock.now()

        def transact(session: Session) -> ResourceRow:
            row = catalogue.get(session, name.project, name.id, for_update=True)
            before = checkpoint_of(row)
            after = change(before)
            return row if after == before else catalogue.save(session, row, after, cause=cause, now=now)

        return await self._db.run(transact)


def _check_holder(holder: str) -> None:
    if not 0 < len(holder) <= MAXIMUM_HOLDER_CHARACTERS:
        raise InvalidArgument(
            "a lease needs a holder",
            violations=[("holder", f"must have 1 to {MAXIMUM_HOLDER_CHARACTERS} characters")],
        )
