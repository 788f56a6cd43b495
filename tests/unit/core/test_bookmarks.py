"""Bookmarks fill idle streams and lose no item."""

import asyncio

import pytest
from longhaul_core.rpc.bookmarks import with_bookmarks


async def test_idle_stream_gets_bookmarks_and_no_item_is_lost():
    gate = asyncio.Event()

    async def items():
        yield 1
        await gate.wait()
        yield 2

    seen = []
    async for item in with_bookmarks(items(), 0.01):
        seen.append(item)
        if seen.count(None) == 2:
            gate.set()
    assert seen[:3] == [1, None, None]
    assert [item for item in seen if item is not None] == [1, 2]


async def test_error_of_the_stream_comes_through_and_closing_ends_it():
    closed = []

    async def failing():
        try:
            yield 1
            raise ValueError("broken")
        finally:
            closed.append(True)

    with pytest.raises(ValueError, match="broken"):
        async for _ in with_bookmarks(failing(), 10):
            pass
    endless = asyncio.Event()

    async def waiting():
        try:
            yield 1
            await endless.wait()
        finally:
            closed.append(True)

    stream = with_bookmarks(waiting(), 10)
    assert await anext(stream) == 1
    await stream.aclose()
    assert closed == [True, True]
