"""A service with one method of each kind, served for real on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from longhaul_core.rpc.auth import Principal, current_principal
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import ServiceContext, ServiceDefinition, running_service
from longhaul_core.settings import ServiceSettings

ECHO = "longhaul.test.v1.EchoService"


@dataclass
class Echo:
    """Answers with the bytes it gets; `fail` raises `failure`, `wait` never answers."""

    failure: BaseException | None = None
    loops: Sequence[Callable[[ServiceContext], Coroutine[Any, Any, None]]] = ()
    log: list[str] = field(default_factory=list)
    principals: list[Principal] = field(default_factory=list)
    context: ServiceContext | None = None
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    async def build(self, context: ServiceContext) -> ServiceDefinition:
        self.context = context

        async def on_drain() -> None:
            self.log.append("drained")

        async def on_close() -> None:
            self.log.append("closed")

        loops = [lambda loop=loop: loop(context) for loop in self.loops]
        return ServiceDefinition(register=self.register, background=loops, on_drain=on_drain, on_close=on_close)

    async def unary(self, request: bytes, context: Any) -> bytes:
        return await self._answer(request)

    async def stream_out(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for part in request.split():
            yield await self._answer(part)

    async def write_out(self, request: bytes, context: Any) -> None:
        for part in request.split():
            await context.write(await self._answer(part))

    async def stream_in(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b" ".join([await self._answer(request) async for request in requests])

    async def stream_both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._answer(request)

    async def _answer(self, request: bytes) -> bytes:
        self.principals.append(current_principal())
        if request == b"fail" and self.failure is not None:
            raise self.failure
        if request == b"wait":
            self.waits.set()
            await asyncio.Event().wait()
        return request

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "StreamOut": grpc.unary_stream_rpc_method_handler(self.stream_out),
            "WriteOut": grpc.unary_stream_rpc_method_handler(self.write_out),
            "StreamIn": grpc.stream_unary_rpc_method_handler(self.stream_in),
            "StreamBoth": grpc.stream_stream_rpc_method_handler(self.stream_both),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO, handlers),))
        return [ECHO]


class EchoStub:
    """Calls the methods; every answer comes as a list."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(self, method: str, *requests: bytes, timeout: float | None = None) -> list[bytes]:
        async def stream() -> AsyncIterator[bytes]:
            for request in requests:
                yield request

        path = f"/{ECHO}/{method}"
        if method == "Unary":
            return [await self.channel.unary_unary(path)(requests[0], timeout=timeout)]
        if method == "StreamIn":
            return [await self.channel.stream_unary(path)(stream(), timeout=timeout)]
        if method == "StreamBoth":
            return [part async for part in self.channel.stream_stream(path)(stream(), timeout=timeout)]
        return [part async for part in self.channel.unary_stream(path)(b" ".join(requests), timeout=timeout)]


Serve = Callable[..., AbstractAsyncContextManager[EchoStub]]


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(data_dir=tmp_path, shutdown_grace_seconds=2.0)


@pytest.fixture
def make_echo() -> type[Echo]:
    return Echo


@pytest.fixture
def serve(settings: ServiceSettings) -> Serve:
    """Serves an `Echo` in this process and yields a stub of it."""

    @asynccontextmanager
    async def start(echo: Echo, *, settings: ServiceSettings = settings, **options: Any) -> AsyncIterator[EchoStub]:
        async with running_service(settings, echo.build) as address, connect(address, **options) as channel:
            yield EchoStub(channel)

    return start
