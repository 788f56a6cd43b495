"""A client's connection to one node process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from longhaul_core.cluster.local.server import HOST
from longhaul_core.cluster.local.store import Store
from longhaul_core.cluster.local.wire import LINE_LIMIT_BYTES, Operation, encode, receive

PATIENCE_SECONDS = 2.0
SILENCE_REMEMBERED_SECONDS = 0.5


class NodeSilentError(Exception):
    """The node process does not answer; never leaves this package."""


@dataclass(slots=True)
class NodeLink:
    """Made on demand and given up at the first silence.

    A silence is remembered for a moment, so that a stopped node costs one wait, not many.
    """

    node: str
    store: Store
    on_hint: Callable[[dict[str, Any]], None]
    on_connect: Callable[[], None]
    _writer: asyncio.StreamWriter | None = None
    _reader_task: asyncio.Task[None] | None = None
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=itertools.count)
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _silent_until: float = 0.0

    async def ask(self, operation: Operation, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises `NodeSilentError`."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._silent_until:
            raise NodeSilentError(self.node)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                writer = await self._connected()
                number = next(self._ids)
                answer: asyncio.Future[dict[str, Any]] = loop.create_future()
                self._answers[number] = answer
                try:
                    writer.write(encode({"id": number, "operation": operation, **fields}))
                    return await answer
                finally:
                    self._answers.pop(number, None)
        except TimeoutError:
            self._silent_until = loop.time() + SILENCE_REMEMBERED_SECONDS
            self._hang_up()
            raise NodeSilentError(self.node) from None
        except OSError:
            self._hang_up()
            raise NodeSilentError(self.node) from None

    async def answers(self) -> bool:
        """Whether the node process is there and responds."""
        try:
            await self.ask(Operation.PING)
        except NodeSilentError:
            return False
        return True

    async def close(self) -> None:
        """Hang up."""
        task = self._reader_task
        self._hang_up()
        if task is not None:
            await asyncio.wait([task])

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is not None:
                return self._writer
            endpoint = await asyncio.to_thread(self.store.load_endpoint, self.node)
            if endpoint is None:
                raise ConnectionRefusedError(self.node)
            reader, writer = await asyncio.open_connection(HOST, endpoint.port, limit=LINE_LIMIT_BYTES)
            writer.write(encode({"token": endpoint.token}))
            self._writer = writer
            self._reader_task = asyncio.create_task(self._read(reader, writer), name=f"link to {self.node}")
        self.on_connect()
        return writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (message := await receive(reader)) is not None:
                number = message.get("id")
                if number is None:
                    self.on_hint(message)
                elif (answer := self._answers.get(number)) is not None and not answer.done():
                    answer.set_result(message)
        finally:
            writer.close()
            if self._writer is writer:
                self._hang_up()

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError(self.node))
