"""`python -m longhaul_core.rpc.check HOST:PORT ...`: makes a real call to each server, as `helm test` does.

Health must be SERVING; then reflection tells the services and their messages, and of each service that has a plain
`List` method one page is asked for. Token and TLS roots are those of the settings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from longhaul_core.errors import FailedPrecondition, LonghaulError, Unavailable
from longhaul_core.rpc.client import connect_sync, rpc_errors
from longhaul_core.settings import ServiceSettings, load_settings

EXIT_FAILED = 1
_OWN_PREFIX = "longhaul."
_DEADLINE_SECONDS = 20.0


def check(address: str, settings: ServiceSettings) -> Sequence[str]:
    """Call one server and return the methods that answered.

    Raises:
        LonghaulError: The server is not there, not SERVING, refuses the caller, or serves nothing that can be listed.
    """
    token = settings.api_token.get_secret_value() or None
    with (
        rpc_errors(),
        connect_sync(address, token=token, tls_ca=settings.tls_ca, deadline_seconds=_DEADLINE_SECONDS) as channel,
    ):
        _check_health(channel, address)
        called = [_list_one(channel, method) for method in _list_methods(channel)]
    if not called:
        raise FailedPrecondition(f"{address} serves nothing that can be listed", reason="NOTHING_SERVED")
    return called


def main(addresses: Sequence[str]) -> int:
    """Check all servers; one line each."""
    if not addresses:
        sys.stderr.write("check: give the addresses of the servers\n")
        return EXIT_FAILED
    failed = False
    for address in addresses:
        try:
            called = check(address, load_settings(ServiceSettings))
        except LonghaulError as error:
            failed = True
            sys.stderr.write(f"check: {address}: {error}\n")
        else:
            sys.stdout.write(f"check: {address}: SERVING, answered {', '.join(called)}\n")
    return EXIT_FAILED if failed else 0


def _check_health(channel: grpc.Channel, address: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_DEADLINE_SECONDS, wait_for_ready=True)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise Unavailable(f"{address} says {state}", reason="NOT_SERVING")


def _list_methods(channel: grpc.Channel) -> Iterator[MethodDescriptor]:
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    for name in database.get_services():
        if name.startswith(_OWN_PREFIX):
            service: ServiceDescriptor = pool.FindServiceByName(name)
            yield from (method for method in service.methods if _is_plain_list(method))


def _is_plain_list(method: MethodDescriptor) -> bool:
    """Whether a method lists the resources of a project, or of everything; others need the name of a resource."""
    noun = method.containing_service.name.removesuffix("Service")
    return method.name in (f"List{noun}", f"List{noun}s") and not method.server_streaming


def _list_one(channel: grpc.Channel, method: MethodDescriptor) -> str:
    request = GetMessageClass(method.input_type)(page_size=1)
    if "parent" in method.input_type.fields_by_name:
        request.parent = "projects/default"  # type: ignore[attr-defined]  # its class is made at run time
    path = f"/{method.containing_service.full_name}/{method.name}"
    call = channel.unary_unary(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    call(request)
    return method.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
