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
from functools import partial
from importlib import metadata
from typing import NoReturn

from longhaul_core.clock import SystemClock
from longhaul_core.collector import spare_collector
from longhaul_core.db import Database
from longhaul_core.errors import ErrorCode, LonghaulError
from longhaul_core.exits import EXIT_CONFIGURATION, EXIT_DEFECT, EXIT_FULL, EXIT_OK, EXIT_UNAVAILABLE
from longhaul_core.logging import configure_logging, get_logger
from longhaul_core.metrics import (
    DatabaseMetrics,
    Metrics,
    RpcMetrics,
    StoreMetrics,
    observe_identity,
    start_metrics_server,
)
from longhaul_core.objects import open_store
from longhaul_core.objects.measured import MeasuredStore
from longhaul_core.rpc.auth import open_authenticator
from longhaul_core.rpc.handlers import CallInterceptor
from longhaul_core.rpc.host import ServiceHost
from longhaul_core.rpc.interceptors import (
    AuthenticationInterceptor,
    DeadlineInterceptor,
    ErrorInterceptor,
    TelemetryInterceptor,
)
from longhaul_core.rpc.listener import Port, advertised, open_health_server
from longhaul_core.rpc.service import Build, ServiceContext, ServiceDefinition
from longhaul_core.rpc.waiting import ToldToStop, open_when_there
from longhaul_core.settings import ServiceSettings, load_settings

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
        async with _hosted(settings, build, shutdown) as host:
            spare_collector()
            await host.wait(shutdown)
    except ToldToStop:
        return EXIT_OK
    except LonghaulError as error:
        return _report(settings.service, error)
    return EXIT_DEFECT if host.failure else EXIT_OK


@asynccontextmanager
async def running_service(settings: ServiceSettings, build: Build) -> AsyncIterator[str]:
    """Run a service in this process and yield its address; the end of the block is its SIGTERM.

    Raises:
        BaseException: What a background loop of the service raised.
    """
    async with _hosted(settings, build, asyncio.Event()) as host:
        yield host.address
    if host.failure:
        raise host.failure


@asynccontextmanager
async def _hosted(settings: ServiceSettings, build: Build, shutdown: asyncio.Event) -> AsyncIterator[ServiceHost]:
    async with AsyncExitStack() as stack:
        metrics = Metrics(settings.service)
        port = Port(settings)
        stack.callback(port.close)
        waiting = partial(open_when_there, settings=settings, port=port, shutdown=shutdown)
        database_url, store_url = settings.resolved_database_url, settings.resolved_object_store_url
        in_pod = bool(settings.health_address)  # its volume is another machine's too: an end would only hide the reason
        db = await waiting(lambda: Database.open(database_url), remote=in_pod or not database_url.startswith("sqlite"))
        stack.push_async_callback(asyncio.to_thread, db.close)
        db.observed_by(DatabaseMetrics(metrics).observe)
        store = await waiting(lambda: open_store(store_url), remote=in_pod or not store_url.startswith("file:"))
        if settings.metrics_address:
            metrics_server = start_metrics_server(settings.metrics_address, metrics.registry)
            stack.callback(metrics_server.close)
            metrics.observe_process()
            observe_identity(metrics, _code_version(), settings.tls_certificate)
        context = ServiceContext(
            settings=settings,
            db=db,
            objects=MeasuredStore(store, StoreMetrics(metrics)),
            metrics=metrics,
            clock=SystemClock(),
            stop=asyncio.Event(),
            address=advertised(settings, port.address),
        )
        definition = await build(context)
        if definition.on_close is not None:
            stack.push_async_callback(definition.on_close)
        probed = open_health_server(settings.health_address)
        server = port.open_server(_interceptors(settings, metrics))
        host = ServiceHost(server, context, definition, port.address, probed)
        await host.start()
        stack.push_async_callback(host.stop)
        log.info("service started", address=port.address, database=db.url, objects=store_url)
        yield host


def _interceptors(settings: ServiceSettings, metrics: Metrics) -> Sequence[CallInterceptor]:
    return (
        TelemetryInterceptor(RpcMetrics(metrics)),
        ErrorInterceptor(),
        AuthenticationInterceptor(open_authenticator(settings, SystemClock())),
        DeadlineInterceptor(),
    )


def _code_version() -> str:
    """The installed version; `source` in a checkout that was not installed."""
    try:
        return metadata.version("longhaul-core")
    except metadata.PackageNotFoundError:
        return "source"


def _report(service: str, error: LonghaulError) -> int:
    """Write one line that says what is wrong and what to do, and return the exit code."""
    sys.stderr.write(f"{service}: {' '.join(str(error).split())}\n")
    return _EXIT_CODES.get(error.code, EXIT_CONFIGURATION)
