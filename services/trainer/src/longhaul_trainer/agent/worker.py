"""One worker process as its agent keeps it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from longhaul_core.logging import get_logger
from pydantic import ValidationError

from longhaul_trainer.wire import WORKER_MESSAGE, Assignment, Failed, PhaseChange, Request, WorkerMessage

_LINE_LIMIT = 1 << 20
_TAIL_LINES = 20
_OWN_STEPS = 16
_GAPS = 32
_log = get_logger(__name__)

MessageHandler = Callable[["Worker", WorkerMessage], None]
LineHandler = Callable[["Worker", str], None]
ExitHandler = Callable[["Worker", int], None]


class Worker:
    """A forked process. Its handlers run in the event loop; the exit comes after all messages and lines."""

    def __init__(
        self, number: int, channel: socket.socket, output: int, on_message: MessageHandler, on_exit: ExitHandler
    ) -> None:
        self.number = number
        self.process_id = 0
        self.assignment: Assignment | None = None
        self.phase = ""
        self.step = 0
        self.heard = time.monotonic()
        self.failure = ""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.own: deque[float] = deque(maxlen=_OWN_STEPS)
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._overheard: asyncio.Queue[str] | None = None
        self.exited = asyncio.Event()
        self._channel = channel
        self._on_message = on_message
        self._on_exit = on_exit
        self._on_line: LineHandler = lambda _worker, _line: None
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._follow(output))

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return not self.exited.is_set()

    @property
    def last_words(self) -> str:
        """Why it ended: what it said, else the end of its log."""
        return self.failure or "\n".join(self.tail)

    def own_seconds(self) -> float:
        """Median of the last steps' time on the rank's own work; 0 while unknown."""
        return statistics.median(self.own) if self.own else 0.0

    def silent_seconds(self) -> float:
        """Seconds since the worker last reported progress."""
        return time.monotonic() - self.heard

    def usual_gap_seconds(self) -> float:
        """Median of the last pauses between two signs of life; 0 while unknown."""
        return statistics.median(self._gaps) if self._gaps else 0.0

    @contextmanager
    def overheard(self) -> Iterator[asyncio.Queue[str]]:
        """The lines that the process writes meanwhile; they go to the log as well."""
        self._overheard = asyncio.Queue()
        try:
            yield self._overheard
        finally:
            self._overheard = None

    async def assign(self, assignment: Assignment, listener: socket.socket | None, on_line: LineHandler) -> None:
        """Makes the worker a rank; its log lines go to the handler."""
        self.assignment = assignment
        self.heard = time.monotonic()
        self._on_line = on_line
        secrets = {name: getattr(assignment, name).get_secret_value() for name in ("token", "keeper_secret")}
        document = assignment.model_dump(mode="json") | secrets
        descriptors = [listener.fileno()] if assignment.listens and listener is not None else []
        await self._send(json.dumps(document), descriptors)

    async def request(self, request: Request) -> None:
        """Asks for a checkpoint."""
        if self.alive:
            await self._send(request.model_dump_json(), [])

    def ended(self, code: int) -> None:
        """The process was reaped."""
        if not self._code.done():
            self._code.set_result(code)

    async def _send(self, document: str, descriptors: list[int]) -> None:
        data = document.encode() + b"\n"
        try:
            if descriptors:
                sent = socket.send_fds(self._channel, [data], descriptors)
                data = data[sent:]
            await asyncio.get_running_loop().sock_sendall(self._channel, data)
        except OSError as error:
            _log.warning("worker does not listen", process_id=self.process_id, error=str(error))

    async def _follow(self, output: int) -> None:
        await asyncio.gather(self._read_messages(), self._read_lines(output))
        code = await self._code
        self._channel.close()
        self.exited.set()
        self._on_exit(self, code)

    async def _read_messages(self) -> None:
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
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            message = WORKER_MESSAGE.validate_json(line)
        except ValidationError as error:
            _log.error("worker message not understood", process_id=self.process_id, error=str(error))
            return
        now = time.monotonic()
        self._gaps.append(now - self.heard)
        self.heard = now
        match message:
            case PhaseChange(phase=phase, step=step, own_seconds=own):
                self.phase, self.step = phase.value, step
                if own > 0.0:
                    self.own.append(own)
            case Failed(message=text):
                self.failure = text
        self._on_message(self, message)

    async def _read_lines(self, output: int) -> None:
        reader = asyncio.StreamReader(limit=_LINE_LIMIT)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", buffering=0)
        )
        try:
            while raw := await self._read_line(reader):
                line = raw.decode(errors="replace").rstrip("\n")
                self.tail.append(line)
                if self._overheard is not None:
                    self._overheard.put_nowait(line)
                self._on_line(self, line)
        finally:
            transport.close()

    async def _read_line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line; one that is longer than a mebibyte is cut off there."""
        try:
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError:
            return await reader.read(_LINE_LIMIT)
