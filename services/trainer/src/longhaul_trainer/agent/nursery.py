"""The agent's side of the nursery: the process from which all workers of the pod are forked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys

from longhaul_core.logging import get_logger

from longhaul_trainer.agent.worker import ExitHandler, MessageHandler, Worker
from longhaul_trainer.nursery_wire import LARGEST_PACKET_BYTES, REPORT, Exited, Fork, Forked, Kill, Order, Ready

_RESTART_PAUSE_SECONDS = 1.0
_log = get_logger(__name__)


class NurseryLost(Exception):  # noqa: N818
    """The nursery ended before it could make the worker."""


class Nursery:
    """Keeps one nursery process alive and makes workers with it."""

    def __init__(self, on_message: MessageHandler, on_exit: ExitHandler) -> None:
        self._on_message = on_message
        self._on_exit = on_exit
        self._workers: dict[int, Worker] = {}
        self._next_number = 0
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()

    async def run(self) -> None:
        """Starts the process, and again whenever it ends, until cancelled."""
        while True:
            await self._serve_once()
            _log.error("nursery ended", workers=len(self._workers))
            await asyncio.sleep(_RESTART_PAUSE_SECONDS)

    async def make_worker(self) -> Worker:
        """A new worker that waits for its assignment; waits while the nursery still imports."""
        while True:
            await self._ready.wait()
            with contextlib.suppress(NurseryLost):
                return await self._fork()

    async def kill(self, worker: Worker) -> None:
        """Ends a worker at once and waits until it is gone."""
        with contextlib.suppress(NurseryLost):
            await self._order(Kill(number=worker.number), [])
        await worker.exited.wait()

    async def close(self) -> None:
        """Ends the nursery, and with it every worker."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    async def _serve_once(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-u", "-m", "longhaul_trainer.worker"]
        identity = ["--control", str(theirs.fileno()), "--agent", str(os.getpid())]
        self._process = await asyncio.create_subprocess_exec(
            *command, *identity, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL
        )
        theirs.close()
        self._control = ours
        try:
            await self._follow(ours)
            await self._process.wait()
        finally:
            self._ready.clear()
            self._control = None
            ours.close()
            for worker in list(self._workers.values()):
                self._end(worker.number, -signal.SIGKILL)

    async def _follow(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                packet = await loop.sock_recv(control, LARGEST_PACKET_BYTES)
            except ConnectionError:
                return
            if not packet:
                return
            match REPORT.validate_json(packet):
                case Ready():
                    _log.info("nursery ready")
                    self._ready.set()
                case Forked(number=number, process_id=process_id):
                    self._workers[number].process_id = process_id
                case Exited(number=number, code=code):
                    self._end(number, code)

    async def _fork(self) -> Worker:
        self._next_number += 1
        channel, theirs = socket.socketpair()
        channel.setblocking(False)
        reading, writing = os.pipe()
        worker = Worker(self._next_number, channel, reading, self._on_message, self._on_exit)
        self._workers[worker.number] = worker
        try:
            await self._order(Fork(number=worker.number), [theirs.fileno(), writing])
        except NurseryLost:
            self._end(worker.number, -signal.SIGKILL)
            raise
        finally:
            theirs.close()
            os.close(writing)
        return worker

    async def _order(self, order: Order, descriptors: list[int]) -> None:
        """Packets are small and few, so that the socket's buffer always takes one at once."""
        if self._control is None:
            raise NurseryLost
        try:
            socket.send_fds(self._control, [order.model_dump_json().encode()], descriptors)
        except OSError as error:
            raise NurseryLost from error

    def _end(self, number: int, code: int) -> None:
        worker = self._workers.pop(number, None)
        if worker is not None:
            worker.ended(code)
