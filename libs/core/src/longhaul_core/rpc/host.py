"""The life of a service around its gRPC server: health, reflection, background loops, drain."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from longhaul_core.logging import get_logger
from longhaul_core.rpc.service import ServiceContext, ServiceDefinition
from longhaul_core.rpc.waiting import LIVE

log = get_logger(__name__)


class ServiceHost:
    """A service that serves, from its first call to its orderly end."""

    def __init__(
        self,
        server: grpc.aio.Server,
        context: ServiceContext,
        definition: ServiceDefinition,
        address: str,
        probed: grpc.aio.Server | None = None,
    ) -> None:
        """Take the server, and the one of `health_address` where probes have a port of their own."""
        self.address = address
        self.failure: BaseException | None = None
        self._server = server
        self._servers = [server] if probed is None else [server, probed]
        self._context = context
        self._definition = definition
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # absent from the stubs
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Register the servicers with health and reflection, start to serve, start the loops."""
        names = self._definition.register(self._server)
        for server in self._servers:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        shown = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(shown, self._server)
        for name in ("", LIVE, *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        for server in self._servers:
            await server.start()
        for loop in self._definition.background:
            task = asyncio.create_task(loop(), name=getattr(loop, "__qualname__", "background"))
            task.add_done_callback(self._ended)
            self._loops.append(task)

    async def wait(self, shutdown: asyncio.Event) -> None:
        """Return when the process is told to stop, or when the service cannot go on."""
        waits = [asyncio.create_task(event.wait()) for event in (shutdown, self._context.stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self) -> None:
        """End in order; never longer than the drain delay and twice the grace."""
        settings = self._context.settings
        log.info("service stops")
        await self._health.enter_graceful_shutdown()
        await self._context.clock.sleep(settings.drain_delay_seconds)
        await self._drain(settings.shutdown_grace_seconds)
        self._context.stop.set()
        self._context.db.feed.close()
        grace = settings.shutdown_grace_seconds
        await asyncio.gather(*(server.stop(grace) for server in self._servers), self._end_loops(grace))

    async def _drain(self, limit_seconds: float) -> None:
        if self._definition.on_drain is None:
            return
        try:
            async with asyncio.timeout(limit_seconds):
                await self._definition.on_drain()
        except Exception:
            log.exception("drain failed")

    async def _end_loops(self, grace_seconds: float) -> None:
        if not self._loops:
            return
        _, late = await asyncio.wait(self._loops, timeout=grace_seconds)
        for task in late:
            log.warning("background loop cancelled", loop=task.get_name())
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        self.failure = self.failure or task.exception()
        log.critical("background loop failed", loop=task.get_name(), exc_info=task.exception())
        self._context.stop.set()
