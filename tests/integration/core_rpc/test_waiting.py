"""A service whose database or store is not there: alive, not ready, and it says why until it can start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul_client.connection import Connection
from longhaul_client.probing import probe
from longhaul_client.sdk import Client
from longhaul_core.db import Database
from longhaul_core.errors import Unavailable
from longhaul_core.rpc.client import connect_sync, from_rpc_error
from longhaul_core.rpc.waiting import LIVE

from tests.conftest import take_port

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth")
DEADLINE_SECONDS = 180


class Relay:
    """A port that leads to the database once it is opened, as an address whose server comes up late."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = take_port()
        self._listener: socket.socket | None = None

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            end.close()


class Started:
    """The checkpoint service as a process."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.address, self.probed = (f"127.0.0.1:{take_port()}" for _ in range(2))
        common = {
            "LONGHAUL_LISTEN_ADDRESS": self.address,
            "LONGHAUL_HEALTH_ADDRESS": self.probed,
            "LONGHAUL_METRICS_ADDRESS": "",
            "LONGHAUL_DATA_DIR": str(folder),
        }
        self._log = folder / "log"
        folder.mkdir()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "longhaul_checkpoint"],
                env={**os.environ, **common, **settings},
                stdout=log,
                stderr=log,
            )

    def waits(self) -> list[str]:
        """The reasons for which it said that it waits."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [line["reason"] for line in lines if line["event"] == "waiting"]

    def output(self) -> str:
        return self._log.read_text()

    def health(self, service: str = "", *, probes: bool = False) -> int:
        with grpc.insecure_channel(self.probed if probes else self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            return int(stub.Check(request, wait_for_ready=True, timeout=DEADLINE_SECONDS).status)

    def wait_serving(self) -> None:
        """Probe like a kubelet, for which a probe that is not answered is one that failed."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            with contextlib.suppress(grpc.RpcError):
                if self.health() == SERVING:
                    return
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    processes: list[Started] = []

    def start(**settings: str) -> Started:
        processes.append(Started(tmp_path / f"service-{len(processes)}", **settings))
        return processes[-1]

    yield start
    for one in processes:
        one.process.kill()
        one.process.wait()


@pytest.mark.needs_program("postgres")
def test_service_waits_for_its_database_says_so_and_starts_when_it_is_there(postgres_url: str, started: Any) -> None:
    Database.open(postgres_url, migrated=True).close()
    server, _, name = postgres_url.rpartition("/")
    relay = Relay(int(server.rpartition(":")[2]))
    service = started(LONGHAUL_DATABASE_URL=f"postgresql://longhaul@127.0.0.1:{relay.port}/{name}")
    assert service.health() == NOT_SERVING
    assert service.health(probes=True) == NOT_SERVING
    assert service.health(LIVE, probes=True) == SERVING

    with connect_sync(service.address) as channel, pytest.raises(grpc.RpcError) as caught:
        checkpoint_pb2_grpc.CheckpointServiceStub(channel).ListCheckpoints(
            checkpoint_pb2.ListCheckpointsRequest(parent="projects/default")
        )
    error = from_rpc_error(caught.value)
    assert isinstance(error, Unavailable)
    assert error.reason == "DATABASE_UNAVAILABLE"
    assert "the service waits: the database" in error.message
    assert "LONGHAUL_DATABASE_URL" in error.action
    with Client(Connection(dict.fromkeys(SERVICES, service.address))) as client:
        answer = probe(client, "checkpoint", "projects/default")
    assert not answer.serving
    assert "the service waits: the database" in answer.state
    assert service.waits() == ["DATABASE_UNAVAILABLE"]

    relay.open()
    service.wait_serving()
    assert service.health(LIVE, probes=True) == service.health(probes=True) == SERVING
    relay.close()


@pytest.mark.needs_program("postgres")
def test_schema_that_is_behind_is_waited_for_as_well(postgres_url: str, started: Any) -> None:
    service = started(LONGHAUL_DATABASE_URL=postgres_url)
    assert service.health() == NOT_SERVING
    assert service.waits() == ["SCHEMA_BEHIND"]
    Database.open(postgres_url, migrated=True).close()
    service.wait_serving()


def test_store_that_does_not_answer_is_named_and_sigterm_ends_the_wait(started: Any) -> None:
    url = f"s3://bucket?endpoint=127.0.0.1:{take_port()}&secure=false&region=us-east-1"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    service = started(LONGHAUL_OBJECT_STORE_URL=url, **keys)
    assert service.health() == NOT_SERVING
    assert service.waits() == ["OBJECT_STORE_UNAVAILABLE"]
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=DEADLINE_SECONDS) == 0


def test_volume_that_cannot_be_written_is_named_and_waited_for(started: Any) -> None:
    service = started(LONGHAUL_DATA_DIR="/sys/longhaul")  # where nobody makes a folder, root neither
    assert service.health() == NOT_SERVING
    assert service.health(LIVE, probes=True) == SERVING
    assert len(service.waits()) == 1
    with Client(Connection(dict.fromkeys(SERVICES, service.address))) as client:
        assert "/sys/longhaul/checkpoint" in probe(client, "checkpoint", "projects/default").state


def test_what_only_we_can_mend_ends_the_process_with_its_reason(started: Any) -> None:
    service = started(LONGHAUL_DATABASE_URL="mysql://somewhere/database")
    assert service.process.wait(timeout=DEADLINE_SECONDS) == 78
    assert "database_url: it names mysql" in service.output()
