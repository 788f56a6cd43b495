"""Every method of every service, called by every role: who is let in is what the protos say and what is written down.

The table is tests/golden/access/methods.txt; `LONGHAUL_UPDATE_GOLDEN=1` writes it anew, to be read and committed.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.corpus.v1 import corpus_build_pb2, token_set_pb2, tokenizer_pb2
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.gpuhealth.v1 import node_health_pb2
from longhaul.ingest.v1 import dataset_pb2, ingestion_pb2, upload_pb2
from longhaul.training.v1 import agent_pb2, experiment_pb2, plan_pb2, project_pb2, task_pb2, training_run_pb2
from longhaul_core.clock import ManualClock
from longhaul_core.rpc.access import Role, access_of
from longhaul_core.rpc.auth import TokenAuthenticator
from longhaul_core.rpc.handlers import InterceptedServer
from longhaul_core.rpc.interceptors import AuthenticationInterceptor, ErrorInterceptor
from longhaul_core.rpc.pod_tokens import PodClaim, PodTokens
from longhaul_core.rpc.user_tokens import UserTokens, digest_of

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "access" / "methods.txt"
FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (
        ingestion_pb2,
        dataset_pb2,
        upload_pb2,
        corpus_build_pb2,
        token_set_pb2,
        tokenizer_pb2,
        training_run_pb2,
        task_pb2,
        project_pb2,
        plan_pb2,
        experiment_pb2,
        agent_pb2,
        checkpoint_pb2,
        evaluation_pb2,
        node_health_pb2,
    )
)
PODS = PodTokens(b"key")
POD_TOKEN = PODS.issue(PodClaim("projects/p/trainingRuns/r", "uid", 0, 1))
TOKENS = {
    "nobody": "",
    "pod": POD_TOKEN,
    "viewer": "viewer-token",
    "submitter": "submitter-token",
    "operator": "operator-token",
    "service": "service-token",
}


def methods() -> Iterator[MethodDescriptor]:
    for file in FILES:
        for service in file.services_by_name.values():
            yield from service.methods


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def test_every_proto_file_with_a_service_is_in_the_table() -> None:
    with_service = {
        str(path.relative_to(ROOT / "protos"))
        for path in (ROOT / "protos").rglob("*.proto")
        if "\nservice " in path.read_text()
    }
    assert with_service == {file.name for file in FILES}


def test_roles_of_all_methods_are_as_written_down() -> None:
    lines = []
    for method in methods():
        access = access_of(path_of(method))
        lines.append(f"{path_of(method)} {access.role.name.lower()}{' pods' if access.pods else ''}")
    text = "\n".join(sorted(lines)) + "\n"
    if os.environ.get("LONGHAUL_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


async def unimplemented(request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED)


async def unimplemented_stream(request: Any, context: Any) -> AsyncIterator[bytes]:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED)
    yield b""


def handler_of(method: MethodDescriptor) -> Any:
    kind = "stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary"
    make = getattr(grpc, f"{kind[0]}_{kind[1]}_rpc_method_handler")
    return make(unimplemented_stream if method.server_streaming else unimplemented)


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A server with every method; whoever is let in learns that it is not implemented."""
    users = [
        {"name": role, "role": role, "token_sha256": digest_of(TOKENS[role])}
        for role in ("viewer", "submitter", "operator")
    ]
    (tmp_path / "users.yaml").write_text(yaml.safe_dump({"users": users}))
    known = UserTokens(tmp_path / "users.yaml", ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))
    authenticator = TokenAuthenticator(TOKENS["service"], known, PODS)
    interceptors = [ErrorInterceptor(), AuthenticationInterceptor(authenticator)]
    server = InterceptedServer(grpc.aio.server(), interceptors)
    for file in FILES:
        for service in file.services_by_name.values():
            handlers = {method.name: handler_of(method) for method in service.methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(None)


async def ask(channel: grpc.aio.Channel, method: MethodDescriptor, token: str) -> grpc.StatusCode:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    request: Any = iter([b""]) if method.client_streaming else b""
    name = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, name)(path_of(method))(request, metadata=metadata, timeout=30)
    try:
        if method.server_streaming:
            await call.read()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def expected(line: str, role: str) -> grpc.StatusCode:
    """By the written table, not by the code under test."""
    if role == "nobody":
        return grpc.StatusCode.UNAUTHENTICATED
    _, needed, *pods = line.split()
    order = ["viewer", "submitter", "operator", "service"]
    allowed = bool(pods) if role == "pod" else order.index(role) >= order.index(needed)
    return grpc.StatusCode.UNIMPLEMENTED if allowed else grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("role", sorted(TOKENS))
async def test_each_method_lets_in_who_may_call_it(channel: grpc.aio.Channel, role: str) -> None:
    table = {line.split()[0]: line for line in GOLDEN.read_text().splitlines()}
    met = {path_of(method): await ask(channel, method, TOKENS[role]) for method in methods()}
    assert met == {path: expected(table[path], role) for path in met}
    assert len(met) == len(table) > 90


def test_method_without_a_role_is_for_services_only() -> None:
    assert access_of("/longhaul.ingest.v1.IngestionService/Forgotten").role is Role.SERVICE
