"""One worker process, seen from the engine: start, run a task, watch its memory, kill."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

import psutil

from longhaul_core.engine.failures import RemoteTaskError, TaskNotStarted, WorkerDied, WorkerMemoryExceeded
from longhaul_core.engine.messages import (
    Failed,
    Progress,
    Ready,
    Result,
    Run,
    Setup,
    Started,
    dump,
    frame,
    receive_async,
)
from longhaul_core.engine.protocol import OnProgress, Payload

_STDERR = 2
_MEMORY_POLL_SECONDS = 0.25


class WorkerProcess:
    """A spawned process and the socket to it. Its own session, so that a kill reaches what the task started."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._memory_used_bytes = 0

    @classmethod
    async def start(cls, setup: Setup) -> "WorkerProcess":
        """Spawn a worker and wait until it has imported its modules. Raises RemoteTaskError where that fails."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "longhaul_core.engine.worker",
                str(theirs.fileno()),
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=_STDERR,  # what a task prints must not mix with what the service prints
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = cls(process, reader, writer)
        try:
            await worker._begin(setup)
        except BaseException:
            await worker.kill()
            raise
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def run(
        self, task: str, payload: bytes, on_progress: OnProgress | None, memory_limit_bytes: int | None
    ) -> Payload:
        """Run one task. Raises as `Engine.submit`, and TaskNotStarted."""
        watch = asyncio.create_task(self._watch_memory(memory_limit_bytes)) if memory_limit_bytes else None
        try:
            return await self._converse(task, payload, on_progress)
        except WorkerDied as death:
            if memory_limit_bytes and self._memory_used_bytes > memory_limit_bytes:
                raise WorkerMemoryExceeded(
                    task, limit_bytes=memory_limit_bytes, used_bytes=self._memory_used_bytes
                ) from death
            raise
        finally:
            if watch:
                watch.cancel()

    async def kill(self) -> None:
        """End the process and everything it started, and wait until it is gone. Safe to repeat."""
        self._signal_group()
        self._writer.close()
        await asyncio.shield(self._process.wait())

    async def _begin(self, setup: Setup) -> None:
        self._writer.write(frame(dump(setup)))
        answer = await receive_async(self._reader)
        if isinstance(answer, Failed):
            raise RemoteTaskError(answer.record)
        if not isinstance(answer, Ready):
            raise await self._death("set-up")

    async def _converse(self, task: str, payload: bytes, on_progress: OnProgress | None) -> Payload:
        with suppress(ConnectionError):
            self._writer.write(frame(dump(Run(task, payload))))
            await self._writer.drain()
        if not isinstance(await receive_async(self._reader), Started):
            raise TaskNotStarted
        while True:
            match await receive_async(self._reader):
                case Progress(value):
                    if on_progress:
                        on_progress(value)
                case Result(value):
                    return value
                case Failed(record):
                    raise RemoteTaskError(record)
                case _:
                    raise await self._death(task)

    async def _death(self, task: str) -> WorkerDied:
        self._signal_group()  # a process that closed its socket but lives is of no use
        code = await self._process.wait()
        return WorkerDied(task, signal=-code) if code < 0 else WorkerDied(task, exit_code=code)

    def _signal_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _watch_memory(self, limit_bytes: int) -> None:
        while self._memory_used_bytes <= limit_bytes:
            await asyncio.sleep(_MEMORY_POLL_SECONDS)
            self._memory_used_bytes = await asyncio.to_thread(_resident_bytes, self._process.pid)
        self._signal_group()


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total
