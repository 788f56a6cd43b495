"""A service whose database or object store is not there yet: it says so to whoever asks, and tries again.

A process that ended instead would be started again ever less often, its reason hidden behind "CrashLoopBackOff". This
one is alive but not ready, and each of its methods answers UNAVAILABLE with what is missing and what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from longhaul_core.errors import ErrorCode, LonghaulError, Unavailable
from longhaul_core.logging import get_logger
from longhaul_core.rpc.interceptors import ErrorInterceptor
from longhaul_core.rpc.listener import Port, open_health_server
from longhaul_core.settings import ServiceSettings

T = TypeVar("T")

LIVE = "live"
"""Name under which health says that the process is alive, ready or not: for startup and liveness probes."""

RETRY_SECONDS = 2.0
_GRACE_SECONDS = 1.0
"""For probes in progress when the service itself takes over."""
_REPAIRABLE = frozenset({ErrorCode.FAILED_PRECONDITION, ErrorCode.PERMISSION_DENIED, ErrorCode.UNAUTHENTICATED})
"""What the owner of a server can mend while we wait: a schema not migrated yet, a bucket or right that is missing."""

log = get_logger(__name__)


class ToldToStop(Exception):  # noqa: N818 - not an error
    """The process is to end while it still waits."""


class _EveryMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # no generic when it runs
    """Answers whatever is called with the error of the moment."""

    def __init__(self) -> None:
        self.error: LonghaulError = Unavailable("the service starts", reason="STARTING")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return None
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, requests: Any, context: Any) -> None:
        raise self.error


async def open_when_there(
    open_it: Callable[[], T], *, remote: bool, settings: ServiceSettings, port: Port, shutdown: asyncio.Event
) -> T:
    """Open a database or a store; where it is another machine's and does not let us, wait for it.

    Raises:
        LonghaulError: It is this machine's, or what is wrong lies with our own settings.
        ToldToStop: `shutdown` was set first.
    """
    try:
        return await asyncio.to_thread(open_it)
    except LonghaulError as error:
        if not _worth_waiting(error, remote):
            raise
        first = error
    async with _waiting_room(settings, port) as room:
        room.error = _as_unavailable(first)
        log.warning("waiting", reason=first.reason, error=str(first))
        while True:
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await shutdown.wait()
                raise ToldToStop
            except TimeoutError:
                pass
            try:
                return await asyncio.to_thread(open_it)
            except LonghaulError as error:
                if not _worth_waiting(error, remote):
                    raise
                if error.reason != first.reason:
                    log.warning("waiting", reason=error.reason, error=str(error))
                room.error, first = _as_unavailable(error), error


def _worth_waiting(error: LonghaulError, remote: bool) -> bool:
    return remote and (error.code is ErrorCode.UNAVAILABLE or error.code in _REPAIRABLE)


def _as_unavailable(error: LonghaulError) -> Unavailable:
    return Unavailable(
        f"the service waits: {error.message}", reason=error.reason, metadata=error.metadata, action=error.action
    )


@asynccontextmanager
async def _waiting_room(settings: ServiceSettings, port: Port) -> AsyncIterator[_EveryMethod]:
    methods = _EveryMethod()
    probes: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # absent from the stubs
    await probes.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    await probes.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
    server = port.open_server((ErrorInterceptor(),), keep=True)
    server.add_generic_rpc_handlers((methods,))
    probed = open_health_server(settings.health_address)
    servers = [server] if probed is None else [server, probed]
    for each in servers:
        health_pb2_grpc.add_HealthServicer_to_server(probes, each)
        await each.start()
    try:
        yield methods
    finally:
        await asyncio.gather(*(each.stop(_GRACE_SECONDS) for each in servers))
