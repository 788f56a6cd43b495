"""Surrounds methods of any kind (unary or streaming on either side) with asynchronous context managers.

gRPC's own interceptors are asked anew for every call and build a handler each time, which costs more than the call
itself. Here a method is wrapped once, when it is first called; the server that servicers register with wraps whatever
it is given, so that nothing is served without its surroundings.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

ServicerContext = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Method:
    """A method that is served."""

    path: str
    streaming: bool

    @property
    def service_name(self) -> str:
        """The full name of the service."""
        return self.path.split("/")[1]

    @property
    def name(self) -> str:
        """The method's name in its service."""
        return self.path.rpartition("/")[2]


class CallInterceptor(Protocol):
    """Makes a context manager around each call; the body is the rest of the chain."""

    def around(self, method: Method, context: ServicerContext) -> AbstractAsyncContextManager[None]:
        """Return the context manager of one call."""
        ...


class InterceptedServer(grpc.aio.Server):
    """A gRPC server whose methods all run within the interceptors, the first one outermost."""

    def __init__(self, server: grpc.aio.Server, interceptors: Sequence[CallInterceptor]) -> None:
        self._server = server
        self._interceptors = tuple(interceptors)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Serve the methods of these handlers."""
        wrapped = tuple(_Wrapping(handler, self._interceptors) for handler in generic_rpc_handlers)
        self._server.add_generic_rpc_handlers(wrapped)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Serve the methods of generated code, which gRPC finds faster than those of generic handlers."""
        wrapped = {
            name: wrap(handler, f"/{service_name}/{name}", self._interceptors)
            for name, handler in method_handlers.items()
        }
        self._server.add_registered_method_handlers(service_name, wrapped)  # type: ignore[attr-defined]  # not in stubs

    def add_insecure_port(self, address: str) -> int:
        """Listen without TLS."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listen with TLS."""
        return self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        """Refuse new calls and give those in progress some time."""
        await self._server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped."""
        return await self._server.wait_for_termination(timeout)


class _Wrapping(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Finds a method's handler and keeps it wrapped; an unknown method stays unknown."""

    def __init__(self, inner: Any, interceptors: Sequence[CallInterceptor]) -> None:
        self._inner = inner
        self._interceptors = interceptors
        self._known: dict[str, Any] = {}

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call."""
        path = handler_call_details.method
        found = self._known.get(path)
        if found is None:
            handler = self._inner.service(handler_call_details)
            if handler is None:
                return None
            found = self._known[path] = wrap(handler, path, self._interceptors)
        return found


def wrap(handler: Any, path: str, interceptors: Sequence[CallInterceptor]) -> Any:
    """Return a handler of the same kind that runs within the interceptors."""
    method = Method(path, bool(handler.request_streaming or handler.response_streaming))
    serializers = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.response_streaming:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        for interceptor in reversed(interceptors):
            behaviour = _streaming(behaviour, method, interceptor)
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(behaviour, **serializers)
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
    for interceptor in reversed(interceptors):
        behaviour = _unary(behaviour, method, interceptor)
    make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(behaviour, **serializers)


def _unary(inner: Any, method: Method, interceptor: CallInterceptor) -> Any:
    async def handle(request: Any, context: ServicerContext) -> Any:
        async with interceptor.around(method, context):
            return await inner(request, context)

    return handle


def _streaming(inner: Any, method: Method, interceptor: CallInterceptor) -> Any:
    async def handle(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
        async with interceptor.around(method, context):
            responses = inner(request, context)
            if inspect.isawaitable(responses):  # a method that writes by context.write
                await responses
                return
            async for response in responses:
                yield response

    return handle
