"""A service from start to end: in this process, and as a process that is told to stop or cannot start."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from longhaul_core.errors import FailedPrecondition, Unavailable
from longhaul_core.rpc.client import connect, connect_sync, rpc_errors
from longhaul_core.rpc.server import running_service
from longhaul_core.settings import ServiceSettings

PROGRAM = """
import asyncio, sys
from longhaul_core.rpc.server import ServiceDefinition, main
from longhaul_core.settings import ServiceSettings

class Settings(ServiceSettings):
    service = "ingest"

async def build(context):
    async def drain():
        print("drained", flush=True)
    async def loop():
        print(f"ready {context.address}", flush=True)
        await context.stop.wait()
        print("loop ended", flush=True)
    async def crash():
        raise ValueError("planted")
    loops = [crash] if "crash" in sys.argv else [loop]
    return ServiceDefinition(register=lambda server: ["longhaul.test.v1.Empty"], background=loops, on_drain=drain)

main(Settings, build)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def environment(tmp_path: Path, **changed: str) -> dict[str, str]:
    settings = {
        "LONGHAUL_DATA_DIR": str(tmp_path / "data"),
        "LONGHAUL_LISTEN_ADDRESS": "127.0.0.1:0",
        "LONGHAUL_METRICS_ADDRESS": "127.0.0.1:0",
        "LONGHAUL_SHUTDOWN_GRACE_SECONDS": "3",
    }
    return {**os.environ, **settings, **changed}


def run(program: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def running(program: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().removeprefix("ready ").strip()
    finally:
        process.kill()
        process.communicate()


def test_sigterm_drains_then_ends_with_zero(running: tuple[subprocess.Popen[str], str]) -> None:
    process, address = running
    with connect_sync(address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGTERM)
        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watching.cancel()
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert output.split("\n")[:2] == ["drained", "loop ended"]
    logged = [json.loads(line) for line in errors.splitlines()]
    assert [line["event"] for line in logged] == ["service started", "service stops"]
    assert {line["service"] for line in logged} == {"ingest"}


def test_sigterm_with_a_call_that_never_ends_ends_within_the_grace(
    running: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = running
    with connect_sync(address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        next(watching)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        assert process.returncode == 0


@pytest.mark.parametrize("setting", ["LONGHAUL_LISTEN_ADDRESS", "LONGHAUL_METRICS_ADDRESS"])
def test_port_taken_is_one_line_that_names_address_and_setting(program: Path, tmp_path: Path, setting: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run(program, environment(tmp_path, **{setting: address}))
    assert done.returncode == 78
    assert done.stderr == (
        f"ingest: cannot listen on {address}: the port is taken by another process "
        f"(stop the other process or set {setting} to another address)\n"
    )
    assert not (tmp_path / "data" / "ingest").exists() or setting == "LONGHAUL_METRICS_ADDRESS"


def test_two_services_on_one_port_second_is_refused(
    running: tuple[subprocess.Popen[str], str], program: Path, tmp_path: Path
) -> None:
    _, address = running
    done = run(program, environment(tmp_path, LONGHAUL_LISTEN_ADDRESS=address))
    assert done.returncode == 78
    assert f"cannot listen on {address}" in done.stderr


def test_damaged_database_is_one_line_that_names_the_file(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / "ingest" / "ingest.sqlite3"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    done = run(program, environment(tmp_path))
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"ingest: the database file {path} is damaged: file is not a database (move {path}")
    assert path.read_bytes() == b"no database" * 1000


def test_address_open_to_others_is_refused_unless_told(program: Path, tmp_path: Path) -> None:
    refused = run(program, environment(tmp_path, LONGHAUL_LISTEN_ADDRESS="0.0.0.0:0"))
    assert refused.returncode == 78
    assert "refused to listen on 0.0.0.0:0" in refused.stderr
    assert "LONGHAUL_ALLOW_INSECURE" in refused.stderr


@pytest.mark.parametrize("change", [{"allow_insecure": True}, {"api_token": "word"}])
async def test_address_open_to_others_is_allowed_with_consent_or_token(
    serve: Any, make_echo: Any, settings: ServiceSettings, change: dict[str, Any]
) -> None:
    chosen = ServiceSettings(**{**settings.model_dump(), "listen_address": "0.0.0.0:0", **change})
    echo = make_echo()
    async with serve(echo, settings=chosen, token="word") as stub:
        assert await stub.call("Unary", b"a") == [b"a"]
    assert echo.context.address.partition(":")[0] == socket.gethostname()


def test_misspelt_setting_names_the_nearest(program: Path, tmp_path: Path) -> None:
    done = run(program, environment(tmp_path, LONGHAUL_LISTEN_ADRESS="127.0.0.1:1"))
    assert done.returncode == 78
    assert done.stderr == ("ingest: unknown setting LONGHAUL_LISTEN_ADRESS (did you mean LONGHAUL_LISTEN_ADDRESS?)\n")


def test_wrong_value_of_a_setting_names_the_variable(program: Path, tmp_path: Path) -> None:
    done = run(program, environment(tmp_path, LONGHAUL_WORKERS="many"))
    assert done.returncode == 78
    assert done.stderr.startswith("ingest: LONGHAUL_WORKERS: ")
    assert done.stderr.count("\n") == 1


def test_crash_of_a_loop_ends_the_process_loudly(program: Path, tmp_path: Path) -> None:
    done = run(program, environment(tmp_path), "crash")
    assert done.returncode == 70
    failed = [json.loads(line) for line in done.stderr.splitlines() if "background loop failed" in line]
    assert failed[0]["level"] == "critical"
    assert "planted" in failed[0]["exception"]


async def test_crash_of_a_loop_is_raised_by_running_service(serve: Any, make_echo: Any) -> None:
    async def crash(context: Any) -> None:
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        async with serve(make_echo(loops=[crash])) as stub:
            await stub.call("Unary", b"a")


async def test_failure_of_build_frees_port_and_database(settings: ServiceSettings, free_port: int) -> None:
    fixed = settings.model_copy(update={"listen_address": f"127.0.0.1:{free_port}"})

    async def broken(context: Any) -> Any:
        raise FailedPrecondition("not yet")

    for _ in range(2):
        with pytest.raises(FailedPrecondition, match="not yet"):
            async with running_service(fixed, broken):
                pass


async def test_stop_lets_a_call_in_progress_end_and_loops_finish(serve: Any, make_echo: Any) -> None:
    finished = []

    async def loop(context: Any) -> None:
        await context.stop.wait()
        finished.append("loop")

    echo = make_echo(loops=[loop])
    async with serve(echo) as stub:
        await stub.call("Unary", b"a")
    assert echo.log == ["drained", "closed"]
    assert finished == ["loop"]


async def test_call_that_outlasts_the_grace_is_ended_as_unavailable_or_cancelled(
    make_echo: Any, settings: ServiceSettings
) -> None:
    echo = make_echo()
    brief = settings.model_copy(update={"shutdown_grace_seconds": 0.2})
    async with running_service(brief, echo.build) as address:
        channel = connect(address)
        waiting = asyncio.ensure_future(channel.unary_stream("/longhaul.test.v1.EchoService/StreamOut")(b"wait").read())
        await asyncio.wait_for(echo.waits.wait(), 60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiting
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    await channel.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1 that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths = tmp_path / "tls.crt", tmp_path / "tls.key"
    paths[0].write_bytes(built.public_bytes(pem))
    paths[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


async def test_tls_serves_those_who_trust_it_only(
    serve: Any, make_echo: Any, settings: ServiceSettings, certificate: tuple[Path, Path]
) -> None:
    crt, key = certificate
    guarded = settings.model_copy(update={"tls_certificate": crt, "tls_key": key})
    async with serve(make_echo(), settings=guarded, tls_ca=crt) as stub:
        assert await stub.call("Unary", b"a") == [b"a"]
    async with serve(make_echo(), settings=guarded) as stub:
        with pytest.raises(Unavailable), rpc_errors():
            await stub.call("Unary", b"a", timeout=5)
