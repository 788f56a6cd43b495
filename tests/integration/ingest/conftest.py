"""An ingest service in this process over gRPC, and one as a process that tests can kill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_ingest.app import build
from longhaul_ingest.settings import IngestSettings

from tests.integration.ingest.support import Client, Process

Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore.open(tmp_path / "data/objects")


@pytest.fixture
def serve(tmp_path: Path, store: FilesystemStore) -> Serve:
    """A service over the test's data folder, as often as it is asked for."""

    @asynccontextmanager
    async def run(**fields: object) -> AsyncIterator[Client]:
        settings = IngestSettings(
            data_dir=tmp_path / "data",
            listen_address="127.0.0.1:0",
            metrics_address="",
            log_level="error",
            **({"workers": 1} | fields),
        )
        async with running_service(settings, build) as address, connect(address) as channel:
            yield Client(channel, store)

    return run


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    async with serve() as client:
        yield client


@pytest.fixture
def process(tmp_path: Path, free_port: int) -> Iterator[Process]:
    service = Process(tmp_path / "data", free_port)
    yield service
    service.stop()
