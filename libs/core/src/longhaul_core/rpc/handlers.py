"""Wraps a method of any kind (unary or streaming on either side) in an asynchronous context manager."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import grpc

ServicerContext = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call in progress."""

    method: str
    metadata: dict[str, str]
    streaming: bool

    @property
    def service_name(self) -> str:
        """The full name of the service."""
        return self.method.split("/")[1]

    @property
    def method_name(self) -> str:
        """The method's name in its service."""
        return self.method.rpartition("/")[2]


Around = Callable[[Call, ServicerContext], AbstractAsyncContextManager[None]]


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """An interceptor that is a context manager around each call; the body is the rest of the chain."""

    @abstractmethod
    def around(self, call: Call, context: ServicerContext) -> AbstractAsyncContextManager[None]:
        """Return the context manager of one call."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the method's handler; an unknown method stays unknown."""
        handler = await continuation(details)
        if handler is None:
            return None
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        streaming = handler.request_streaming or handler.response_streaming
        return wrap(handler, Call(details.method, metadata, streaming), self.around)


def wrap(handler: Any, call: Call, around: Around) -> Any:
    """Return a handler of the same kind that runs within `around`."""
    serializers = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.response_streaming:
        inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(_streaming(inner, call, around), **serializers)
    inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
    make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(_unary(inner, call, around), **serializers)


def _unary(inner: Any, call: Call, around: Around) -> Any:
    async def handle(request: Any, context: ServicerContext) -> Any:
        async with around(call, context):
            return await inner(request, context)

    return handle


def _streaming(inner: Any, call: Call, around: Around) -> Any:
    async def handle(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
        async with around(call, context):
            responses = inner(request, context)
            if inspect.isawaitable(responses):  # a method that writes by context.write
                await responses
                return
            async for response in responses:
                yield response

    return handle
