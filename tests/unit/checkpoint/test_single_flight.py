"""Work under one key runs once, joins its callers and outlives them."""

import asyncio

import pytest
from longhaul_checkpoint.adapters.single_flight import SingleFlight


async def test_repeated_call_joins_and_a_caller_that_leaves_stops_nothing():
    flights: SingleFlight[int] = SingleFlight()
    gate, started = asyncio.Event(), []

    async def work():
        started.append(True)
        await gate.wait()
        return 7

    first = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    gate.set()
    assert await second == 7
    assert len(started) == 1
    assert await flights.run("k", work) == 7
    assert len(started) == 2


async def test_error_reaches_every_caller_and_the_next_call_starts_anew():
    flights: SingleFlight[int] = SingleFlight()

    async def fail():
        raise ValueError("broken")

    async def succeed():
        return 1

    results = await asyncio.gather(flights.run("k", fail), flights.run("k", fail), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    assert await flights.run("k", succeed) == 1


async def test_close_breaks_off_what_is_under_way():
    flights: SingleFlight[None] = SingleFlight()
    waiting = asyncio.create_task(flights.run("k", asyncio.Event().wait))
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
