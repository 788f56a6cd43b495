"""Warm standbys: processes that have torch imported already, so that a restart in place costs no import."""

from __future__ import annotations

import asyncio

from longhaul_core.logging import get_logger

from longhaul_trainer.agent.worker import ExitHandler, MessageHandler, Worker
from longhaul_trainer.wire import Warm, WorkerMessage

_log = get_logger(__name__)
_REFILL_PAUSE_SECONDS = 1.0


class StandbyPool:
    """Keeps as many warm workers as the pod has ranks."""

    def __init__(self, size: int, on_message: MessageHandler, on_exit: ExitHandler) -> None:
        self._size = size
        self._on_message = on_message
        self._on_exit = on_exit
        self._standbys: list[Worker] = []
        self._closed = False
        self._filling = asyncio.Lock()

    async def fill(self) -> None:
        """Starts as many as are missing; one that died while it waited is replaced after a pause."""
        async with self._filling:
            self._standbys = [worker for worker in self._standbys if worker.alive]
            while len(self._standbys) < self._size and not self._closed:
                self._standbys.append(await Worker.spawn(self._announce_warm, self._standby_exited))

    async def take(self) -> Worker:
        """A worker for a rank, the warmest first; starts one where none is left."""
        self._standbys.sort(key=lambda worker: not worker.warm.is_set())
        while self._standbys:
            worker = self._standbys.pop(0)
            if worker.alive:
                return worker
        return await Worker.spawn(self._on_message, self._standby_exited)

    async def close(self) -> None:
        """Ends all standbys."""
        self._closed = True
        async with self._filling:
            pass
        await asyncio.gather(*(worker.kill() for worker in self._standbys))

    def _announce_warm(self, worker: Worker, message: WorkerMessage) -> None:
        if isinstance(message, Warm):
            _log.info("standby warm", process_id=worker.process.pid)
        self._on_message(worker, message)

    def _standby_exited(self, worker: Worker, code: int) -> None:
        if worker.assignment is not None:
            self._on_exit(worker, code)
        elif not self._closed:
            _log.error("standby ended", code=code, last_words=worker.last_words)
            asyncio.get_running_loop().call_later(_REFILL_PAUSE_SECONDS, self._refill)

    def _refill(self) -> None:
        self._refilling = asyncio.ensure_future(self.fill())
