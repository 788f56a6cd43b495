from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from longhaul_core.errors import (
    ERROR_CLASSES,
    DeadlineExceeded,
    ErrorCode,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Unauthenticated,
    Unavailable,
)
from longhaul_core.rpc.auth import ANYONE
from longhaul_core.rpc.client import connect_sync, rpc_errors
from longhaul_core.rpc.handlers import InterceptedServer
from longhaul_core.rpc.interceptors import DeadlineInterceptor, ErrorInterceptor
from longhaul_core.settings import ServiceSettings
from pydantic import SecretStr

ECHO = "longhaul.test.v1.EchoService"
METHODS = ["Unary", "StreamOut", "WriteOut", "StreamIn", "StreamBoth"]


@pytest.mark.parametrize("method", METHODS)
async def test_call_of_each_kind_answers(serve: Any, make_echo: Any, method: str) -> None:
    async with serve(make_echo()) as stub:
        assert b" ".join(await stub.call(method, b"a", b"b")) == (b"a" if method == "Unary" else b"a b")


@pytest.mark.parametrize("method", METHODS)
async def test_error_of_each_kind_of_call_arrives_whole(serve: Any, make_echo: Any, method: str) -> None:
    raised = InvalidArgument(
        "layers is -1; it must be positive, naïvely said",
        reason="LAYERS_INVALID",
        violations=[("model.layers", "must be positive")],
        metadata={"value": "-1"},
        action="set model.layers to 1 or more",
    )
    async with serve(make_echo(failure=raised)) as stub:
        with pytest.raises(InvalidArgument) as caught, rpc_errors():
            await stub.call(method, b"fail")
    assert vars(caught.value) == vars(raised)


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_error_of_each_code_arrives_as_its_class(serve: Any, make_echo: Any, code: ErrorCode) -> None:
    raised = ERROR_CLASSES[code]("message", reason="SOME_REASON", metadata={"key": "value"}, action="do this")
    async with serve(make_echo(failure=raised)) as stub:
        with pytest.raises(ERROR_CLASSES[code]) as caught, rpc_errors():
            await stub.call("StreamOut", b"fail")
    assert (caught.value.reason, caught.value.metadata, caught.value.action) == (
        "SOME_REASON",
        {"key": "value"},
        "do this",
    )


async def test_precondition_and_retry_details_are_those_of_google_rpc(serve: Any, make_echo: Any) -> None:
    async def details(failure: Exception) -> list[str]:
        async with serve(make_echo(failure=failure)) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.call("StreamOut", b"fail")
            trailers: Any = caught.value.trailing_metadata()
            status = status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.domain == "longhaul.dev"
            return [detail.TypeName() for detail in status.details]

    assert await details(FailedPrecondition("no")) == ["google.rpc.ErrorInfo", "google.rpc.PreconditionFailure"]
    assert await details(Unavailable("later", retry_after_seconds=2.5)) == [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
    ]


async def test_error_too_large_for_a_trailer_still_arrives(serve: Any, make_echo: Any) -> None:
    raised = FailedPrecondition(
        "ä" * 20_000, reason="LARGE", metadata={f"key{number}": "ö" * 5000 for number in range(100)}
    )
    async with serve(make_echo(failure=raised)) as stub:
        with pytest.raises(FailedPrecondition) as caught, rpc_errors():
            await stub.call("Unary", b"fail")
    assert caught.value.reason == "LARGE"
    assert caught.value.message.startswith("äää")
    assert caught.value.metadata


async def test_defect_shows_no_details_but_logs_them(serve: Any, make_echo: Any, caplog: Any) -> None:
    async with serve(make_echo(failure=ZeroDivisionError("secret detail"))) as stub:
        with pytest.raises(Internal) as caught, rpc_errors():
            await stub.call("Unary", b"fail")
    assert caught.value.reason == "DEFECT"
    assert "secret detail" not in str(caught.value)


async def test_unary_call_past_its_deadline_ends(serve: Any, make_echo: Any) -> None:
    async with serve(make_echo()) as stub:
        with pytest.raises(DeadlineExceeded), rpc_errors():
            await stub.call("Unary", b"wait", timeout=0.2)


async def test_unary_call_without_deadline_gets_the_default_of_its_channel(serve: Any, make_echo: Any) -> None:
    async with serve(make_echo(), deadline_seconds=0.2) as stub:
        with pytest.raises(DeadlineExceeded), rpc_errors():
            await stub.call("Unary", b"wait")


async def test_unavailable_unary_call_is_repeated_others_are_not(serve: Any, make_echo: Any) -> None:
    flaky, refused = make_echo(failure=Unavailable("busy")), make_echo(failure=FailedPrecondition("no"))
    for echo, error in ((flaky, Unavailable), (refused, FailedPrecondition)):
        async with serve(echo) as stub:
            with pytest.raises(error), rpc_errors():
                await stub.call("Unary", b"fail")
    assert (len(flaky.principals), len(refused.principals)) == (5, 1)


async def test_health_answers_for_each_service_and_the_whole(serve: Any, make_echo: Any) -> None:
    async with serve(make_echo()) as stub:
        health = health_pb2_grpc.HealthStub(stub.channel)
        for name in ("", ECHO):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services(serve: Any, make_echo: Any) -> None:
    async with serve(make_echo()) as stub:
        ask = reflection_pb2_grpc.ServerReflectionStub(stub.channel).ServerReflectionInfo
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in ask(iter([request]))]
    names = [service.name for service in answers[0].list_services_response.service]
    assert set(names) == {ECHO, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_metrics_count_calls_by_their_final_code(
    serve: Any, make_echo: Any, settings: ServiceSettings, free_port: int
) -> None:
    served = settings.model_copy(update={"metrics_address": f"127.0.0.1:{free_port}"})
    echo = make_echo(failure=FailedPrecondition("no"))
    async with serve(echo, settings=served) as stub:
        await stub.call("Unary", b"a")
        await stub.call("StreamBoth", b"a", b"b")
        with pytest.raises(grpc.RpcError):
            await stub.call("StreamOut", b"fail")
        page = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{free_port}/metrics")

    def handled(method: str, code: str) -> str:
        labels = f'code="{code}",method="{method}",service="{ECHO}"'
        return f"longhaul_rpc_server_handled_total{{{labels}}} 1.0"

    assert handled("Unary", "OK") in page
    assert handled("StreamBoth", "OK") in page
    assert handled("StreamOut", "FAILED_PRECONDITION") in page
    assert f'longhaul_rpc_server_handling_seconds_count{{method="Unary",service="{ECHO}"}} 1.0' in page
    assert f'longhaul_rpc_server_open_streams{{method="StreamBoth",service="{ECHO}"}} 0.0' in page
    assert "process_resident_memory_bytes" in page


async def test_token_is_required_of_all_calls_but_health(serve: Any, make_echo: Any, settings: ServiceSettings) -> None:
    guarded = settings.model_copy(update={"api_token": SecretStr("word")})
    echo = make_echo()
    async with serve(echo, settings=guarded) as stub:
        health = health_pb2_grpc.HealthStub(stub.channel)
        await health.Check(health_pb2.HealthCheckRequest(service=""))
        for method in METHODS:
            with pytest.raises(Unauthenticated) as caught, rpc_errors():
                await stub.call(method, b"a")
            assert caught.value.reason == "TOKEN_MISSING"
    async with serve(echo, settings=guarded, token="wrong") as stub:
        with pytest.raises(Unauthenticated) as caught, rpc_errors():
            await stub.call("Unary", b"a")
        assert caught.value.reason == "TOKEN_WRONG"
    assert echo.principals == []
    async with serve(echo, settings=guarded, token="word") as stub:
        for method in METHODS:
            await stub.call(method, b"a")
    assert {principal.name for principal in echo.principals} == {"service"}


async def test_blocking_channel_carries_token_deadline_and_errors(
    serve: Any, make_echo: Any, settings: ServiceSettings
) -> None:
    guarded = settings.model_copy(update={"api_token": SecretStr("word")})
    echo = make_echo(failure=FailedPrecondition("no", reason="NOT_NOW"))

    def call(request: bytes) -> bytes:
        assert echo.context is not None
        with connect_sync(echo.context.address, token="word", deadline_seconds=0.3) as channel, rpc_errors():
            return channel.unary_unary(f"/{ECHO}/Unary")(request)

    async with serve(echo, settings=guarded):
        assert await asyncio.to_thread(call, b"a") == b"a"
        with pytest.raises(FailedPrecondition) as caught:
            await asyncio.to_thread(call, b"fail")
        assert caught.value.reason == "NOT_NOW"
        with pytest.raises(DeadlineExceeded):
            await asyncio.to_thread(call, b"wait")


async def test_callers_without_authentication_are_anyone(serve: Any, make_echo: Any) -> None:
    echo = make_echo()
    async with serve(echo) as stub:
        await stub.call("Unary", b"a")
    assert echo.principals == [ANYONE]


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


async def test_call_without_deadline_is_ended_by_the_server() -> None:
    async def wait(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return request

    server = InterceptedServer(grpc.aio.server(), [ErrorInterceptor(), DeadlineInterceptor(default_seconds=0.1)])
    handlers = {"Wait": grpc.unary_unary_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.S", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(DeadlineExceeded) as caught, rpc_errors():
            await channel.unary_unary("/t.S/Wait")(b"")
    await server.stop(None)
    assert "did not end within 0.1 s" in caught.value.message


async def test_call_that_its_caller_cancels_ends_at_the_server_and_is_counted(serve: Any, make_echo: Any) -> None:
    echo = make_echo()
    async with serve(echo) as stub:
        call = stub.channel.unary_stream(f"/{ECHO}/StreamOut")(b"wait")
        await asyncio.wait_for(echo.waits.wait(), 60)
        call.cancel()
        registry = echo.context.metrics.registry
        labels = {"service": ECHO, "method": "StreamOut"}
        async with asyncio.timeout(5):
            while registry.get_sample_value("longhaul_rpc_server_open_streams", labels) != 0:  # noqa: ASYNC110 - a gauge
                await asyncio.sleep(0.01)
    cancelled = registry.get_sample_value("longhaul_rpc_server_handled_total", {**labels, "code": "CANCELLED"})
    assert cancelled == 1
