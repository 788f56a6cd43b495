"""The level-based loops: look at everything that has not ended, take each a step further, wait, look again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from longhaul_core.db import Database
from longhaul_core.errors import LonghaulError, Unavailable
from longhaul_core.logging import get_logger

from longhaul_evaluation.adapters import catalogue
from longhaul_evaluation.adapters.instruments import Instruments
from longhaul_evaluation.adapters.records import evaluation_of
from longhaul_evaluation.adapters.scoring import Room, Scoring
from longhaul_evaluation.adapters.suites import Followers, Suites
from longhaul_evaluation.adapters.waking import Alarm, Hints

log = get_logger(__name__)

T = TypeVar("T")

CONCURRENT_STEPS = 8


class EvaluationLoop:
    """Advances all evaluations."""

    def __init__(
        self,
        db: Database,
        scoring: Scoring,
        alarm: Alarm,
        hints: Hints,
        instruments: Instruments,
        maximum_running: int,
        interval: float,
    ) -> None:
        self._db = db
        self._scoring = scoring
        self._alarm = alarm
        self._hints = hints
        self._instruments = instruments
        self._maximum_running = maximum_running
        self._interval = interval

    async def run(self) -> None:
        """Go round after round until the service stops."""
        while not self._alarm.stopped:
            rows = await _tolerant(self._db.read(catalogue.active_evaluations), "evaluations not read") or []
            self._instruments.active.set(len(rows))
            self._hints.follow({row.project for row in rows})
            room = Room(self._maximum_running - sum(bool(evaluation_of(row).task) for row in rows))
            await _advance_all(_tolerant(self._scoring.advance(row, room), "evaluation not advanced") for row in rows)
            await self._alarm.wait(self._interval)
        await self._hints.close()


class SuiteLoop:
    """Advances all suites."""

    def __init__(self, db: Database, suites: Suites, alarm: Alarm, followers: Followers, interval: float) -> None:
        self._db = db
        self._suites = suites
        self._alarm = alarm
        self._followers = followers
        self._interval = interval

    async def run(self) -> None:
        """Go round after round until the service stops."""
        while not self._alarm.stopped:
            rows = await _tolerant(self._db.read(catalogue.active_suites), "suites not read") or []
            self._followers.follow(rows)
            await _advance_all(_tolerant(self._suites.advance(row), "suite not advanced") for row in rows)
            ended = await _tolerant(self._db.read(catalogue.ended_suites), "suites not read") or []
            await _advance_all(
                _tolerant(self._suites.reopen(row), "run of an ended suite not seen")
                for row in ended
                if row.status["run_failed"]
            )
            await self._alarm.wait(self._interval)
        await self._followers.close()


async def _advance_all(steps: Iterable[Awaitable[object]]) -> None:
    gate = asyncio.Semaphore(CONCURRENT_STEPS)

    async def gated(step: Awaitable[object]) -> None:
        async with gate:
            await step

    await asyncio.gather(*(gated(step) for step in steps))


async def _tolerant(step: Awaitable[T], failure: str) -> T | None:
    """Run a step; an error of another service or of the database is logged, and the next round tries again."""
    try:
        return await step
    except Unavailable as error:
        log.debug(failure, reason=error.reason, error=error.message)
        return None
    except LonghaulError as error:
        log.warning(failure, reason=error.reason, error=error.message)
        return None
