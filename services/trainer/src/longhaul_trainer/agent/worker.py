"""One worker process as its agent keeps it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable

from longhaul_core.logging import get_logger
from pydantic import ValidationError

from longhaul_trainer.wire import WORKER_MESSAGE, Assignment, Failed, PhaseChange, Request, Warm, WorkerMessage

_LINE_LIMIT = 1 << 20
_TAIL_LINES = 20
_log = get_logger(__name__)

MessageHandler = Callable[["Worker", WorkerMessage], None]
LineHandler = Callable[["Worker", str], None]
ExitHandler = Callable[["Worker", int], None]


class Worker:
    """A child process, warm or training. Its handlers run in the event loop; the exit comes after all messages."""

    def __init__(self, process: Process, channel: socket.socket) -> None:
        self.process = process
        self.assignment: Assignment | None = None
        self.phase = ""
        self.step = 0
        self.heard = time.monotonic()
        self.warm = asyncio.Event()
        self.exited = asyncio.Event()
        self.failure = ""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._channel = channel
        self._early_lines: list[str] = []
        self._on_line: LineHandler | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(cls, on_message: MessageHandler, on_exit: ExitHandler) -> Worker:
        """Starts a process that imports everything and waits."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-u", "-m", "longhaul_trainer.worker"]
        process = await asyncio.create_subprocess_exec(
            *command,
            "--channel",
            str(theirs.fileno()),
            "--agent",
            str(os.getpid()),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT,
        )
        theirs.close()
        ours.setblocking(False)
        worker = cls(process, ours)
        worker._task = asyncio.create_task(worker._follow(on_message, on_exit))
        return worker

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return not self.exited.is_set()

    @property
    def last_words(self) -> str:
        """Why it ended: what it said, else the end of its log."""
        return self.failure or "\n".join(self.tail)

    def silent_seconds(self) -> float:
        """Seconds since the worker last reported progress."""
        return time.monotonic() - self.heard

    async def assign(self, assignment: Assignment, listener: socket.socket | None, on_line: LineHandler) -> None:
        """Makes the worker a rank; its log lines go to the handler, those of its warm-up first."""
        await self.warm.wait()
        self.assignment = assignment
        self.heard = time.monotonic()
        self._on_line = on_line
        for line in self._early_lines:
            on_line(self, line)
        self._early_lines.clear()
        document = assignment.model_dump(mode="json") | {"token": assignment.token.get_secret_value()}
        descriptors = [listener.fileno()] if assignment.listens and listener is not None else []
        await self._send(json.dumps(document), descriptors)

    async def request(self, request: Request) -> None:
        """Asks for a checkpoint."""
        if self.alive:
            await self._send(request.model_dump_json(), [])

    async def kill(self) -> None:
        """Ends the process at once and waits until it is gone."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.exited.wait()

    async def _send(self, document: str, descriptors: list[int]) -> None:
        data = document.encode() + b"\n"
        try:
            if descriptors:
                sent = socket.send_fds(self._channel, [data], descriptors)
                data = data[sent:]
            await asyncio.get_running_loop().sock_sendall(self._channel, data)
        except OSError as error:
            _log.warning("worker does not listen", process_id=self.process.pid, error=str(error))

    async def _follow(self, on_message: MessageHandler, on_exit: ExitHandler) -> None:
        await asyncio.gather(self._read_messages(on_message), self._read_lines())
        code = await self.process.wait()
        self._channel.close()
        self.warm.set()
        self.exited.set()
        on_exit(self, code)

    async def _read_messages(self, on_message: MessageHandler) -> None:
        loop, pending = asyncio.get_running_loop(), b""
        while True:
            try:
                data = await loop.sock_recv(self._channel, 1 << 16)
            except ConnectionError:
                return
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._take(line, on_message)

    def _take(self, line: bytes, on_message: MessageHandler) -> None:
        try:
            message = WORKER_MESSAGE.validate_json(line)
        except ValidationError as error:
            _log.error("worker message not understood", process_id=self.process.pid, error=str(error))
            return
        self.heard = time.monotonic()
        match message:
            case Warm():
                self.warm.set()
            case PhaseChange(phase=phase, step=step):
                self.phase, self.step = phase.value, step
            case Failed(message=text):
                self.failure = text
        on_message(self, message)

    async def _read_lines(self) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                raw = await self.process.stdout.readline()
            except ValueError:
                continue
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip("\n")
            self.tail.append(line)
            if self._on_line is None:
                self._early_lines.append(line)
            else:
                self._on_line(self, line)
