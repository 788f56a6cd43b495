from __future__ import annotations

import asyncio
from datetime import UTC, timedelta

from longhaul_core.clock import ManualClock, SystemClock


async def test_manual_clock_wakes_sleepers_in_the_order_of_their_time() -> None:
    clock = ManualClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.create_task(sleeper(name, seconds)) for name, seconds in (("late", 5), ("soon", 2), ("now", 0))]
    await asyncio.sleep(0)
    assert clock.sleepers == 2
    clock.advance(2)
    await tasks[1]
    assert woken == ["now", "soon"]
    clock.advance(10)
    await asyncio.gather(*tasks)
    assert woken == ["now", "soon", "late"]


async def test_manual_clock_advances_both_times_together() -> None:
    clock = ManualClock()
    before = clock.now()
    clock.advance(90.5)
    assert clock.now() - before == timedelta(seconds=90.5)
    assert clock.monotonic() == 90.5


async def test_manual_clock_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert clock.sleepers == 0
    clock.advance(6)
    assert task.cancelled()


async def test_system_clock_is_utc_and_sleeps() -> None:
    clock = SystemClock()
    started = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - started >= 0.009
    assert clock.now().tzinfo is UTC
