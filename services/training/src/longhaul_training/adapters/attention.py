"""Time during which the controller listened.

Silence of an agent counts only while this process could have heard it: when the event loop was stalled, or the machine
suspended, the gap is taken out, so that a controller that hangs for a minute does not declare its agents lost.
"""

from __future__ import annotations

import asyncio

from longhaul_core.clock import Clock

BEAT_SECONDS = 0.25
# A beat that is late by less than this is ordinary scheduling.
TOLERANCE_SECONDS = 0.5


class Attention:
    """A clock that stands still while this process does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.monotonic()
        self._lost = 0.0

    def seconds(self) -> float:
        """Seconds of attention since an arbitrary start."""
        now = self._clock.monotonic()
        return now - self._lost - self._excess(now)

    def beat(self) -> None:
        """Notes that the loop runs."""
        now = self._clock.monotonic()
        self._lost += self._excess(now)
        self._last = now

    async def run(self, stop: asyncio.Event) -> None:
        """Beats until `stop` is set."""
        while not stop.is_set():
            self.beat()
            await self._clock.sleep(BEAT_SECONDS)

    def _excess(self, now: float) -> float:
        gap = now - self._last - BEAT_SECONDS
        return gap if gap > TOLERANCE_SECONDS else 0.0
