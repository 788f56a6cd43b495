"""One read for all who ask for the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """Answers everyone with a read that began after they asked: who comes while one is under way shares the next."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._next: asyncio.Future[T] | None = None
        self._asking = 0

    @property
    def busy(self) -> bool:
        """Whether anyone still waits."""
        return self._asking > 0

    async def read(self) -> T:
        """The value as it is now or later; raises what the read raises."""
        self._asking += 1
        try:
            if self._next is None:
                self._next = asyncio.ensure_future(self._perform())
            # Who goes away does not take the read from the others.
            return await asyncio.shield(self._next)
        finally:
            self._asking -= 1

    async def _perform(self) -> T:
        async with self._lock:
            self._next = None
            return await self._read()
