"""The wire as the release before knows it: a server between pods and services that lets only its fields through.

Each message is read with the frozen descriptors (protos/previous.binpb), loses what they do not know, and goes on; a
method that they do not have is not served. So the program in the pods behaves as one of that release towards the
services, and they towards it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FROZEN = Path(__file__).resolve().parents[3] / "protos" / "previous.binpb"
THREADS = 32
ENDLESS_SECONDS = 1e6
"""grpc says a little less than for ever of a call without a deadline, which as a deadline would be in the past."""


class OldWire(grpc.GenericRpcHandler):
    """`routes`: channel to the service behind each package. `dropped` counts messages that lost fields, by type."""

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self.routes: dict[str, grpc.Channel] = {}
        self.calls: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(FROZEN.read_bytes()).file:
            self._pool.Add(file)
        self._server = grpc.server(futures.ThreadPoolExecutor(THREADS), handlers=[self])
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        self.address = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """On the wire a call with one message is a stream of one."""
        service, _, method = details.method.removeprefix("/").partition("/")
        package = service.rpartition(".")[0]
        try:
            found = self._pool.FindServiceByName(service).FindMethodByName(method)
        except KeyError:
            found = None
        if found is None or package not in self.routes:
            self.refused[details.method] += 1
            return None
        call = self.routes[package].stream_stream(details.method)
        forward = partial(self._forward, call, found.input_type, found.output_type, details.method)
        return grpc.stream_stream_rpc_method_handler(forward)

    def _forward(
        self, call: Any, taken: Any, given: Any, method: str, requests: Iterable[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        self.calls[method] += 1
        metadata = [(key, value) for key, value in context.invocation_metadata() if key == "authorization"]
        answers = call(self._known(taken, requests), metadata=metadata, timeout=_left(context))
        context.add_callback(answers.cancel)
        try:
            yield from self._known(given, answers)
        except grpc.RpcError as error:
            context.set_trailing_metadata(error.trailing_metadata() or ())  # type: ignore[attr-defined]
            context.abort(error.code(), error.details())  # type: ignore[attr-defined]

    def _known(self, descriptor: Any, messages: Iterable[bytes]) -> Iterator[bytes]:
        read = message_factory.GetMessageClass(descriptor)
        for data in messages:
            message = read.FromString(data)
            message.DiscardUnknownFields()
            kept = message.SerializeToString()
            self.dropped[descriptor.name] += len(kept) < len(data)
            yield kept


def _left(context: grpc.ServicerContext) -> float | None:
    seconds = context.time_remaining()
    return None if seconds is None or seconds > ENDLESS_SECONDS else seconds
