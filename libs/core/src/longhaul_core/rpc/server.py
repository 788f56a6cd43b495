"""Runs a service: logs, database, objects, metrics, the gRPC server with its interceptors, and an orderly end.

At SIGTERM: health says NOT_SERVING, load balancers get `drain_delay_seconds` to look away, the service hands its work
over (`on_drain`), loops and watches end, calls in progress get `shutdown_grace_seconds`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from longhaul_core.clock import SystemClock
from longhaul_core.db import Database
from longhaul_core.errors import ErrorCode, LonghaulError
from longhaul_core.logging import configure_logging, get_logger
from longhaul_core.metrics import Metrics, RpcMetrics, start_metrics_server
from longhaul_core.objects import open_store
from longhaul_core.rpc.auth import OpenAuthenticator, TokenAuthenticator
from longhaul_core.rpc.handlers import CallInterceptor
from longhaul_core.rpc.interceptors import (
    AuthenticationInterceptor,
    DeadlineInterceptor,
    ErrorInterceptor,
    TelemetryInterceptor,
)
from longhaul_core.rpc.listener import advertised, open_server
from longhaul_core.rpc.service import Build, ServiceContext, ServiceDefinition
from longhaul_core.settings import ServiceSettings, load_settings

EXIT_OK = 0
EXIT_UNAVAILABLE = 69
EXIT_DEFECT = 70
EXIT_FULL = 74
EXIT_CONFIGURATION = 78
"""As in sysexits.h, so that scripts and supervisors can tell them apart."""

_EXIT_CODES = {
    ErrorCode.INTERNAL: EXIT_DEFECT,
    ErrorCode.DATA_LOSS: EXIT_DEFECT,
    ErrorCode.UNAVAILABLE: EXIT_UNAVAILABLE,
    ErrorCode.DEADLINE_EXCEEDED: EXIT_UNAVAILABLE,
    ErrorCode.RESOURCE_EXHAUSTED: EXIT_FULL,
}

__all__ = ["ServiceContext", "ServiceDefinition", "main", "run_service", "running_service"]

log = get_logger(__name__)


def main(settings_class: type[ServiceSettings], build: Build) -> NoReturn:
    """Run a service as a process: `python -m longhaul_<service>`."""
    try:
        settings = load_settings(settings_class)
    except LonghaulError as error:
        sys.exit(_report(settings_class.service, error))
    sys.exit(asyncio.run(run_service(settings, build)))


async def run_service(settings: ServiceSettings, build: Build) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. What prevents the start is one line on standard error."""
    configure_logging(settings.service, settings.log_level, settings.log_format)
    shutdown = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shutdown.set)
    try:
        async with _hosted(settings, build) as host:
            await host.wait(shutdown)
    except LonghaulError as error:
        return _report(settings.service, error)
    return EXIT_DEFECT if host.failure else EXIT_OK


@asynccontextmanager
async def running_service(settings: ServiceSettings, build: Build) -> AsyncIterator[str]:
    """Run a service in this process and yield its address; the end of the block is its SIGTERM.

    Raises:
        BaseException: What a background loop of the service raised.
    """
    async with _hosted(settings, build) as host:
        yield host.address
    if host.failure:
        raise host.failure


class _Host:
    """A service that serves."""

    def __init__(
        self,
        server: grpc.aio.Server,
        context: ServiceContext,
        definition: ServiceDefinition,
        servicer: Any,
        address: str,
    ) -> None:
        self.address = address
        self.failure: BaseException | None = None
        self._server = server
        self._context = context
        self._definition = definition
        self._health = servicer
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Register the servicers with health and reflection, start to serve, start the loops."""
        names = self._definition.register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        shown = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(shown, self._server)
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
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
        await asyncio.gather(
            self._server.stop(settings.shutdown_grace_seconds), self._end_loops(settings.shutdown_grace_seconds)
        )

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


@asynccontextmanager
async def _hosted(settings: ServiceSettings, build: Build) -> AsyncIterator[_Host]:
    async with AsyncExitStack() as stack:
        metrics = Metrics(settings.service)
        server, bound = open_server(settings, _interceptors(settings, metrics))
        stack.push_async_callback(server.stop, None)
        db = await asyncio.to_thread(Database.open, settings.resolved_database_url)
        stack.push_async_callback(asyncio.to_thread, db.close)
        objects = await asyncio.to_thread(open_store, settings.resolved_object_store_url)
        if settings.metrics_address:
            metrics_server = start_metrics_server(settings.metrics_address, metrics.registry)
            stack.callback(metrics_server.close)
            metrics.observe_process()
        context = ServiceContext(
            settings=settings,
            db=db,
            objects=objects,
            metrics=metrics,
            clock=SystemClock(),
            stop=asyncio.Event(),
            address=advertised(settings, bound),
        )
        definition = await build(context)
        host = _Host(server, context, definition, _health_servicer(), bound)
        await host.start()
        stack.push_async_callback(host.stop)
        log.info("service started", address=bound, database=db.url, objects=settings.resolved_object_store_url)
        yield host


def _interceptors(settings: ServiceSettings, metrics: Metrics) -> Sequence[CallInterceptor]:
    token = settings.api_token.get_secret_value()
    return (
        TelemetryInterceptor(RpcMetrics(metrics)),
        ErrorInterceptor(),
        AuthenticationInterceptor(TokenAuthenticator(token) if token else OpenAuthenticator()),
        DeadlineInterceptor(),
    )


def _health_servicer() -> Any:
    return health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack the asyncio side


def _report(service: str, error: LonghaulError) -> int:
    """Write one line that says what is wrong and what to do, and return the exit code."""
    sys.stderr.write(f"{service}: {' '.join(str(error).split())}\n")
    return _EXIT_CODES.get(error.code, EXIT_CONFIGURATION)
