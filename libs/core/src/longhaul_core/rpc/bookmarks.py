"""Bookmarks: a sign of life on a stream where nothing changes, with a revision to resume after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")

BOOKMARK_SECONDS = 15.0


async def with_bookmarks(items: AsyncIterator[T], idle_seconds: float = BOOKMARK_SECONDS) -> AsyncIterator[T | None]:
    """Yield the items, and None whenever none came for `idle_seconds`; the wait for the next one goes on meanwhile."""
    pending = asyncio.ensure_future(anext(items))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=idle_seconds)
            if not done:
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            pending = asyncio.ensure_future(anext(items))
            yield item
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        if isinstance(items, AsyncGenerator):
            await items.aclose()
