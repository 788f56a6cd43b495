"""Channels to other services: deadlines, retries of what is safe to retry, and errors as the server raised them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
from google.rpc import status_pb2

from longhaul_core.errors import ERROR_CLASSES, ErrorCode, LonghaulError
from longhaul_core.rpc.auth import bearer
from longhaul_core.rpc.status import DETAILS_KEY, from_status

DEFAULT_DEADLINE_SECONDS = 30.0
"""The deadline of a unary call that is given none."""

MAXIMUM_MESSAGE_BYTES = 34 << 20
"""An uploaded tokenizer of 32 MiB and what goes around it: the largest message that any call promises to take."""

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],  # over the pods behind a headless Service
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "3s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}
"""Creates carry a request id, so a repetition of any call is safe. A server that stops cancels what it has accepted and
not begun; what the caller itself cancels is not tried again. The attempts span 2.4 s or more, longer than a channel
waits before it connects anew: no call fails for a refusal that was over when the call was made."""

CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # not 30 s: all pods may be replaced sooner than that
    ("grpc.max_receive_message_length", MAXIMUM_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAXIMUM_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
)


def connect(
    address: str,
    *,
    token: str | None = None,
    tls_ca: Path | bytes | None = None,
    tls_name: str = "",
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> grpc.aio.Channel:
    """Open a channel of the event loop; nothing is sent before the first call.

    Args:
        address: host:port.
        token: Bearer token that each call carries.
        tls_ca: PEM roots, or a file of them, or empty for those of the system: the channel is TLS. None: it is not.
        tls_name: Name that the certificate must have; empty: the host of the address.
        deadline_seconds: For unary calls that are given none.
    """
    interceptors: list[Any] = [
        _UnaryUnary(token, deadline_seconds),
        _UnaryStream(token),
        _StreamUnary(token),
        _StreamStream(token),
    ]
    if tls_ca is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS, interceptors=interceptors)
    named = [("grpc.ssl_target_name_override", tls_name)] if tls_name else []
    options = [*CHANNEL_OPTIONS, *named]
    return grpc.aio.secure_channel(address, _credentials(tls_ca), options=options, interceptors=interceptors)


def connect_sync(
    address: str,
    *,
    token: str | None = None,
    tls_ca: Path | bytes | None = None,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> grpc.Channel:
    """Open a blocking channel, for worker processes and scripts; the arguments are those of `connect`."""
    if tls_ca is None:
        channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    else:
        credentials = _credentials(tls_ca)
        channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
    return grpc.intercept_channel(channel, _Blocking(token, deadline_seconds))


def _credentials(tls_ca: Path | bytes) -> grpc.ChannelCredentials:
    roots = tls_ca if isinstance(tls_ca, bytes) else tls_ca.read_bytes()
    return grpc.ssl_channel_credentials(roots or None)


def from_rpc_error(error: grpc.RpcError) -> LonghaulError:
    """Return the error that the server raised, with reason, metadata, violations and action."""
    trailers: Iterable[tuple[str, Any]] = cast(Any, error.trailing_metadata()) or ()
    for key, value in trailers:
        if key == DETAILS_KEY:
            return from_status(status_pb2.Status.FromString(value))
    code: grpc.StatusCode = error.code()
    details = error.details() or code.name
    known = ErrorCode.__members__.get(code.name, ErrorCode.INTERNAL)
    return ERROR_CLASSES[known](details, reason=f"RPC_{code.name}")


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Raise a `LonghaulError` in place of the `RpcError` of the calls inside."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def _with_metadata(details: Any, token: str | None, timeout: float | None = None) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    if token:
        metadata.add(*bearer(token))
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=details.timeout if details.timeout is not None else timeout,
        metadata=metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str | None, deadline_seconds: float) -> None:
        self._token = token
        self._deadline_seconds = deadline_seconds

    async def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return await continuation(_with_metadata(details, self._token, self._deadline_seconds), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str | None) -> None:
        self._token = token

    async def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return await continuation(_with_metadata(details, self._token), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str | None) -> None:
        self._token = token

    async def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return await continuation(_with_metadata(details, self._token), requests)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str | None) -> None:
        self._token = token

    async def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return await continuation(_with_metadata(details, self._token), requests)


class _BlockingDetails(grpc.ClientCallDetails):
    def __init__(self, details: Any, token: str | None, timeout: float | None) -> None:
        self.method = details.method
        self.timeout = details.timeout if details.timeout is not None else timeout
        self.metadata = (*(details.metadata or ()), *((bearer(token),) if token else ()))
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


class _Blocking(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    def __init__(self, token: str | None, deadline_seconds: float) -> None:
        self._token = token
        self._deadline_seconds = deadline_seconds

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(_BlockingDetails(details, self._token, self._deadline_seconds), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(_BlockingDetails(details, self._token, None), request)

    def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return continuation(_BlockingDetails(details, self._token, None), requests)

    def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return continuation(_BlockingDetails(details, self._token, None), requests)
