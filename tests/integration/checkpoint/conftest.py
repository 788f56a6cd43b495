"""A checkpoint service in this process over gRPC, and one as a process that tests can kill."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from longhaul.checkpoint.v1.checkpoint_pb2_grpc import CheckpointServiceStub
from longhaul_checkpoint.app import build
from longhaul_checkpoint.settings import CheckpointSettings
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service

from tests.integration.checkpoint.support import Client, Process

Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore.open(tmp_path / "objects")


@pytest.fixture
def serve(tmp_path: Path, store: FilesystemStore) -> Serve:
    """A service over the test's data folder, as often as it is asked for; loops do nothing unless told to."""

    @asynccontextmanager
    async def run(**fields: object) -> AsyncIterator[Client]:
        quiet = {"retention_interval_seconds": 1e6, "scrub_interval_seconds": 1e6, "stale_seconds": 0.0}
        settings = CheckpointSettings(
            data_dir=tmp_path, listen_address="127.0.0.1:0", metrics_address="", log_level="error", **(quiet | fields)
        )
        async with running_service(settings, build) as address, connect(address) as channel:
            yield Client(CheckpointServiceStub(channel), store)

    return run


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    async with serve() as client:
        yield client


@pytest.fixture
def process(tmp_path: Path, free_port: int) -> Iterator[Process]:
    service = Process(tmp_path, free_port)
    yield service
    service.stop()
