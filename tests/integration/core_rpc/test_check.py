"""What probes and `helm test` do: the port of health alone, and the program that makes a real call."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from longhaul.training.v1 import task_pb2, task_pb2_grpc
from longhaul_core.errors import FailedPrecondition
from longhaul_core.rpc import check as program
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_core.settings import ServiceSettings
from longhaul_gpuhealth.app import build as build_gpuhealth
from longhaul_gpuhealth.settings import GpuHealthSettings
from longhaul_training.app import build as build_training
from longhaul_training.guard import main as guard
from longhaul_training.settings import TrainingSettings


async def test_health_address_serves_health_alone_without_a_token(
    serve: Any, make_echo: Any, settings: ServiceSettings, free_port: int
) -> None:
    address = f"127.0.0.1:{free_port}"
    guarded = settings.model_copy(update={"health_address": address, "api_token": "secret"})
    guarded = ServiceSettings.model_validate(guarded.model_dump())
    async with serve(make_echo(), settings=guarded, token="secret"), grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/longhaul.test.v1.EchoService/Unary")(b"hello", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_address_that_is_taken_names_its_setting(
    serve: Any, make_echo: Any, settings: ServiceSettings
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(FailedPrecondition, match="LONGHAUL_HEALTH_ADDRESS"):
            async with serve(make_echo(), settings=settings.model_copy(update={"health_address": address})):
                pass


async def test_check_lists_a_page_of_a_real_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = GpuHealthSettings(
        data_dir=tmp_path, listen_address="127.0.0.1:0", metrics_address="", shutdown_grace_seconds=2.0
    )
    async with running_service(settings, build_gpuhealth) as address:
        assert await asyncio.to_thread(program.main, [address]) == 0
    out = capsys.readouterr().out
    assert "SERVING" in out
    assert "ListNodeHealth" in out


def test_check_of_a_port_where_nobody_listens_fails(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    program._DEADLINE_SECONDS, before = 1.0, program._DEADLINE_SECONDS
    try:
        assert program.main([f"127.0.0.1:{free_port}"]) == program.EXIT_FAILED
    finally:
        program._DEADLINE_SECONDS = before
    assert f"127.0.0.1:{free_port}" in capsys.readouterr().err


def test_guard_without_an_answer_refuses_unless_forced(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LONGHAUL_TRAINING_ADDRESS", f"127.0.0.1:{free_port}")
    assert guard([]) == 1
    assert "cannot tell whether runs live" in capsys.readouterr().err
    assert guard(["--force=true"]) == 0
    assert guard(["--force=$(FORCE_REMOVAL)"]) == 1


async def test_guard_refuses_while_a_task_lives_and_lets_go_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TrainingSettings(
        data_dir=tmp_path, listen_address="127.0.0.1:0", metrics_address="", shutdown_grace_seconds=2.0
    )
    async with running_service(settings, build_training) as address, connect(address) as channel:
        monkeypatch.setenv("LONGHAUL_TRAINING_ADDRESS", address)
        assert await asyncio.to_thread(guard, []) == 0
        stub = task_pb2_grpc.TaskServiceStub(channel)
        spec = task_pb2.TaskSpec(kind=task_pb2.TASK_KIND_SCORE, result_key="projects/default/tasks/one.json", gpus=1)
        request = task_pb2.CreateTaskRequest(parent="projects/default", task_id="one", spec=spec, request_id="r-1")
        task = await stub.CreateTask(request)
        assert await asyncio.to_thread(guard, []) == 1
        assert "projects/default/tasks/one" in capsys.readouterr().err
        await stub.CancelTask(task_pb2.CancelTaskRequest(name=task.metadata.name))
        deadline = asyncio.get_running_loop().time() + 60
        while await asyncio.to_thread(guard, []) != 0:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
