"""What surrounds each call, outermost first: telemetry, errors, authentication, deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Any

import grpc
from prometheus_client import Counter

from longhaul_core.errors import DeadlineExceeded, ErrorCode, Internal, LonghaulError
from longhaul_core.logging import get_logger
from longhaul_core.metrics import RpcMetrics
from longhaul_core.rpc.access import require_access
from longhaul_core.rpc.auth import Authenticator, set_principal
from longhaul_core.rpc.client import from_rpc_error
from longhaul_core.rpc.handlers import Method, ServicerContext
from longhaul_core.rpc.status import DETAILS_KEY, cut, grpc_code, to_status

DEFAULT_UNARY_SECONDS = 60.0
"""A unary call whose caller sets no deadline ends after this."""

OPEN_PATHS = ("/grpc.health.v1.Health/",)
"""Probes carry no credentials."""

_SHORT_CHARACTERS = 300
"""Of the plain message beside the status, for clients that do not read details; it is percent-encoded."""

_DEFECTS = frozenset({ErrorCode.INTERNAL, ErrorCode.DATA_LOSS})

_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

log = get_logger(__name__)


class TelemetryInterceptor:
    """Counts and times each call by its final code."""

    def __init__(self, metrics: RpcMetrics) -> None:
        self._metrics = metrics
        self._series: dict[Method, _Series] = {}
        self._logged = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)

    def around(self, method: Method, context: ServicerContext) -> _Telemetry:
        """Observe the call, however it ends."""
        series = self._series.get(method)
        if series is None:
            series = self._series[method] = _Series(self._metrics, method, self._logged)
        return _Telemetry(series, context)


class _Series:
    """The metrics of one method; looking them up by label costs as much as counting."""

    def __init__(self, metrics: RpcMetrics, method: Method, logged: bool) -> None:
        self.logged = logged
        labels = (method.service_name, method.name)
        self.method = method
        self.open_streams = metrics.open_streams.labels(*labels) if method.streaming else None
        self.seconds = None if method.streaming else metrics.seconds.labels(*labels)
        self._handled = metrics.handled
        self._labels = labels
        self._by_code: dict[str, Counter] = {}

    def count(self, code: str) -> None:
        """Count a call that ended."""
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._handled.labels(*self._labels, code)
        counter.inc()


class _Telemetry(AbstractAsyncContextManager[None]):
    __slots__ = ("_context", "_series", "_started")

    def __init__(self, series: _Series, context: ServicerContext) -> None:
        self._series = series
        self._context = context
        self._started = 0.0

    async def __aenter__(self) -> None:
        self._started = time.perf_counter()
        if self._series.open_streams is not None:
            self._series.open_streams.inc()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        series = self._series
        code = _final_code(self._context, isinstance(error, asyncio.CancelledError))
        series.count(code)
        if series.open_streams is not None:
            series.open_streams.dec()
        if series.seconds is not None:
            series.seconds.observe(seconds)
        if series.logged:  # a line that is then dropped costs as much as the metrics
            log.debug("call ended", method=series.method.path, code=code, seconds=seconds)


class ErrorInterceptor:
    """Turns errors into `google.rpc.Status`; tracebacks stay in the log."""

    def around(self, method: Method, context: ServicerContext) -> _Errors:
        """Abort the call with the error's status."""
        return _Errors(method, context)


class _Errors(AbstractAsyncContextManager[None]):
    __slots__ = ("_context", "_method")

    def __init__(self, method: Method, context: ServicerContext) -> None:
        self._method = method
        self._context = context

    async def __aenter__(self) -> None:
        """Nothing can be wrong yet."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            return
        if isinstance(error, grpc.aio.AioRpcError):
            await _abort(self._method, self._context, from_rpc_error(error))
        if isinstance(error, LonghaulError):
            await _abort(self._method, self._context, error)
        log.error("call failed by a defect", method=self._method.path, exc_info=error)
        defect = Internal(
            f"{self._method.name} failed by a defect of the server",
            reason="DEFECT",
            action="see the server's log at this time",
        )
        await _send(self._context, defect)


class AuthenticationInterceptor:
    """Finds out who calls before anything else looks at the call."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def around(self, method: Method, context: ServicerContext) -> _Authentication:
        """Refuse callers without credentials, or without the role that the method asks for; note the others."""
        return _Authentication(self._authenticator, method, context)


class _Authentication(AbstractAsyncContextManager[None]):
    __slots__ = ("_authenticator", "_context", "_method")

    def __init__(self, authenticator: Authenticator, method: Method, context: ServicerContext) -> None:
        self._authenticator = authenticator
        self._method = method
        self._context = context

    async def __aenter__(self) -> None:
        path = self._method.path
        if path.startswith(OPEN_PATHS):
            return
        given = self._context.invocation_metadata() or ()
        metadata = {str(key): value for key, value in given if isinstance(value, str)}
        principal = await self._authenticator.authenticate(path, metadata)
        require_access(principal, path)
        set_principal(principal)

    async def __aexit__(self, *ended: object) -> None:
        """What happens within is none of its business."""


class DeadlineInterceptor:
    """Ends unary calls at the caller's deadline, or after `default_seconds` where it set none."""

    def __init__(self, default_seconds: float = DEFAULT_UNARY_SECONDS) -> None:
        self._default_seconds = default_seconds

    def around(self, method: Method, context: ServicerContext) -> AbstractAsyncContextManager[None]:
        """Limit a unary call; streams last as long as their caller wants."""
        if method.streaming:
            return nullcontext()
        remaining = context.time_remaining()
        return _Deadline(method, self._default_seconds if remaining is None else remaining)


class _Deadline(AbstractAsyncContextManager[None]):
    __slots__ = ("_limit", "_method", "_timeout")

    def __init__(self, method: Method, limit_seconds: float) -> None:
        self._method = method
        self._limit = limit_seconds
        self._timeout = asyncio.timeout(limit_seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._exceeded() from None
        if self._timeout.expired() and isinstance(error, TimeoutError):
            raise self._exceeded() from None

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._method.name} did not end within {self._limit:.1f} s",
            action="give it more time, or see whether the server is overloaded",
        )


async def _abort(method: Method, context: ServicerContext, error: LonghaulError) -> None:
    write = log.error if error.code in _DEFECTS else log.info
    write(
        "call refused",
        method=method.path,
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
