"""When a loop looks again: after a while, and at once where something that it waits for changed.

Hints only shorten the wait. Whoever wakes looks at everything, so a hint that is lost costs time and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from longhaul_core.errors import LonghaulError
from longhaul_core.logging import get_logger

log = get_logger(__name__)

Watch = Callable[[str], AsyncIterator[None]]


class Alarm:
    """Wakes one loop."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._rung = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether the service stops."""
        return self._stop.is_set()

    def ring(self) -> None:
        """Let the loop look again at once."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Wait until the alarm rings or the service stops, at most `seconds`."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._rung, self._stop)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            self._rung.clear()


class Hints:
    """Watches other services, a stream a project, and rings an alarm at each change."""

    def __init__(self, watches: dict[str, Watch], alarm: Alarm, retry_seconds: float) -> None:
        self._watches = watches
        self._alarm = alarm
        self._retry_seconds = retry_seconds
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def follow(self, projects: set[str]) -> None:
        """Watch these projects and no others. Raises what a stream raised that is no outage."""
        for key in [key for key, task in self._running.items() if task.done()]:
            self._running.pop(key).result()
        wanted = {(name, project) for name in self._watches for project in projects}
        for key in wanted - self._running.keys():
            self._running[key] = asyncio.create_task(self._follow(*key))
        for key in self._running.keys() - wanted:
            self._running.pop(key).cancel()

    async def close(self) -> None:
        """End all streams."""
        running = list(self._running.values())
        self.follow(set())
        await asyncio.gather(*running, return_exceptions=True)

    async def _follow(self, name: str, project: str) -> None:
        while True:
            try:
                async for _ in self._watches[name](project):
                    self._alarm.ring()
            except LonghaulError as error:
                log.debug("watch interrupted", watch=name, project=project, reason=error.reason)
            await asyncio.sleep(self._retry_seconds)
