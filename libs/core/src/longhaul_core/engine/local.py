"""Engine on this machine: worker processes that are spawned once, reused, and replaced when they die."""

import asyncio
import sys
from collections.abc import Sequence

from longhaul_core.engine.failures import RemoteTaskError, TaskNotStarted, pickle_payload
from longhaul_core.engine.messages import Setup
from longhaul_core.engine.process import WorkerProcess
from longhaul_core.engine.protocol import OnProgress, Payload, Task, task_path
from longhaul_core.errors import Cancelled


class LocalEngine:
    """A pool of `workers` processes, started on demand.

    Workers are niced below the services, so that a full machine still answers calls, and keep numeric libraries to
    `threads_per_worker` threads. `memory_limit_bytes` bounds the resident memory of each worker and its children,
    polled four times a second.
    """

    def __init__(
        self,
        workers: int,
        *,
        preload: Sequence[str] = (),
        memory_limit_bytes: int | None = None,
        niceness: int = 10,
        threads_per_worker: int = 1,
    ) -> None:
        self._workers = workers
        self._preload = tuple(preload)
        self._memory_limit_bytes = memory_limit_bytes
        self._niceness = niceness
        self._threads = threads_per_worker
        self._slots = asyncio.Semaphore(workers)
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._closed = False

    @property
    def capacity(self) -> int:
        """Number of workers."""
        return self._workers

    async def start(self) -> None:
        """Start all workers now rather than with their first task. Raises RemoteTaskError where `preload` fails."""
        missing = self._workers - len(self._idle) - len(self._busy)
        self._idle += await asyncio.gather(*(self._spawn() for _ in range(missing)))

    async def submit(self, task: Task, payload: Payload, *, on_progress: OnProgress | None = None) -> Payload:
        """See `Engine.submit`."""
        path = task_path(task)
        data = pickle_payload(path, payload)
        async with self._slots:
            while True:
                self._refuse_closed()
                worker = self._idle.pop() if self._idle else await self._spawn()
                try:
                    return await self._run(worker, path, data, on_progress)
                except TaskNotStarted:
                    continue  # it died while idle

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        workers = [*self._idle, *self._busy]
        self._idle.clear()
        await asyncio.gather(*(worker.kill() for worker in workers))

    async def _run(self, worker: WorkerProcess, path: str, data: bytes, on_progress: OnProgress | None) -> Payload:
        reusable = False
        self._busy.add(worker)
        try:
            result = await worker.run(path, data, on_progress, self._memory_limit_bytes)
            reusable = True
            return result
        except RemoteTaskError:
            reusable = True
            raise
        except Exception:
            self._refuse_closed()
            raise
        finally:
            self._busy.discard(worker)
            if reusable and not self._closed:
                self._idle.append(worker)
            else:
                await worker.kill()

    async def _spawn(self) -> WorkerProcess:
        setup = Setup(tuple(sys.path), self._preload, self._niceness, self._threads)
        return await WorkerProcess.start(setup)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Cancelled("The engine is closed.", reason="ENGINE_CLOSED")
