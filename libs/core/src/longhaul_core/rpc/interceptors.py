"""What surrounds each call, outermost first: telemetry, errors, authentication, deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from longhaul_core.errors import DeadlineExceeded, ErrorCode, Internal, LonghaulError
from longhaul_core.logging import get_logger
from longhaul_core.metrics import RpcMetrics
from longhaul_core.rpc.access import require_access
from longhaul_core.rpc.auth import Authenticator, set_principal
from longhaul_core.rpc.client import from_rpc_error
from longhaul_core.rpc.handlers import Call, CallInterceptor, ServicerContext
from longhaul_core.rpc.status import DETAILS_KEY, cut, grpc_code, to_status

DEFAULT_UNARY_SECONDS = 60.0
"""A unary call whose caller sets no deadline ends after this."""

OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})
"""Probes carry no credentials."""

_SHORT_CHARACTERS = 300
"""Of the plain message beside the status, for clients that do not read details; it is percent-encoded."""

_DEFECTS = frozenset({ErrorCode.INTERNAL, ErrorCode.DATA_LOSS})

_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

log = get_logger(__name__)


class TelemetryInterceptor(CallInterceptor):
    """Counts and times each call by its final code."""

    def __init__(self, metrics: RpcMetrics) -> None:
        self._metrics = metrics

    @asynccontextmanager
    async def around(self, call: Call, context: ServicerContext) -> AsyncIterator[None]:
        """Observe the call, however it ends."""
        labels = (call.service_name, call.method_name)
        started = time.perf_counter()
        open_streams = self._metrics.open_streams.labels(*labels) if call.streaming else None
        if open_streams is not None:
            open_streams.inc()
        cancelled = False
        try:
            yield
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            seconds = time.perf_counter() - started
            code = _final_code(context, cancelled)
            self._metrics.handled.labels(*labels, code).inc()
            if open_streams is not None:
                open_streams.dec()
            else:
                self._metrics.seconds.labels(*labels).observe(seconds)
            log.debug("call ended", method=call.method, code=code, seconds=round(seconds, 6))


class ErrorInterceptor(CallInterceptor):
    """Turns errors into `google.rpc.Status`; tracebacks stay in the log."""

    @asynccontextmanager
    async def around(self, call: Call, context: ServicerContext) -> AsyncIterator[None]:
        """Abort the call with the error's status."""
        try:
            yield
        except grpc.aio.AbortError:
            raise
        except grpc.aio.AioRpcError as error:
            await _abort(call, context, from_rpc_error(error))
        except LonghaulError as error:
            await _abort(call, context, error)
        except Exception:
            log.exception("call failed by a defect", method=call.method)
            defect = Internal(
                f"{call.method_name} failed by a defect of the server",
                reason="DEFECT",
                action="see the server's log at this time",
            )
            await _send(context, defect)


class AuthenticationInterceptor(CallInterceptor):
    """Finds out who calls before anything else looks at the call."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    @asynccontextmanager
    async def around(self, call: Call, context: ServicerContext) -> AsyncIterator[None]:
        """Refuse callers without credentials, or without the role that the method asks for; note the others."""
        if call.service_name not in OPEN_SERVICES:
            principal = await self._authenticator.authenticate(call.method, call.metadata)
            require_access(principal, call.method)
            set_principal(principal)
        yield


class DeadlineInterceptor(CallInterceptor):
    """Ends unary calls at the caller's deadline, or after `default_seconds` where it set none."""

    def __init__(self, default_seconds: float = DEFAULT_UNARY_SECONDS) -> None:
        self._default_seconds = default_seconds

    @asynccontextmanager
    async def around(self, call: Call, context: ServicerContext) -> AsyncIterator[None]:
        """Limit a unary call; streams last as long as their caller wants."""
        if call.streaming:
            yield
            return
        remaining = context.time_remaining()
        limit = self._default_seconds if remaining is None else remaining
        try:
            async with asyncio.timeout(limit) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"{call.method_name} did not end within {limit:.1f} s",
                action="give it more time, or see whether the server is overloaded",
            ) from None


async def _abort(call: Call, context: ServicerContext, error: LonghaulError) -> None:
    write = log.error if error.code in _DEFECTS else log.info
    write(
        "call refused",
        method=call.method,
        code=error.code.value,
        reason=error.reason,
        error=error.message,
        exc_info=error if error.code in _DEFECTS else None,
    )
    await _send(context, error)


async def _send(context: ServicerContext, error: LonghaulError) -> None:
    status = to_status(error)
    await context.abort(
        grpc_code(error.code), cut(status.message, _SHORT_CHARACTERS), ((DETAILS_KEY, status.SerializeToString()),)
    )


def _final_code(context: ServicerContext, cancelled: bool) -> str:
    code: Any = context.code()  # a StatusCode, its number, or None
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
    if cancelled and not number:
        return grpc.StatusCode.CANCELLED.name
    return _CODE_NAMES.get(number, grpc.StatusCode.UNKNOWN.name)
