"""A corpus service in this process over gRPC, beside a stand-in for ingest; one of each a module, for speed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from longhaul.ingest.v1 import dataset_pb2_grpc, ingestion_pb2_grpc
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_corpus.app import build
from longhaul_corpus.settings import CorpusSettings

from tests.integration.corpus.support import DATASET, Client, Ingest, library_documents, write_dataset


@dataclass(frozen=True)
class Place:
    """Where the services of a module work."""

    folder: Path
    store: FilesystemStore
    ingest: Ingest
    ingest_address: str
    server: grpc.aio.Server

    def settings(self) -> CorpusSettings:
        return CorpusSettings(
            data_dir=self.folder,
            listen_address="127.0.0.1:0",
            metrics_address="",
            log_level="error",
            ingest_address=self.ingest_address,
            workers=2,
        )


@asynccontextmanager
async def serve_ingest(ingest: Ingest, port: int = 0) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    """Serve the stand-in; yields its address and its server."""
    server = grpc.aio.server()
    dataset_pb2_grpc.add_DatasetServiceServicer_to_server(ingest, server)
    ingestion_pb2_grpc.add_IngestionServiceServicer_to_server(ingest, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield f"127.0.0.1:{bound}", server
    await server.stop(0)


@asynccontextmanager
async def serve_corpus(place: Place) -> AsyncIterator[Client]:
    """Serve corpus in this process."""
    async with running_service(place.settings(), build) as address, connect(address) as channel:
        yield Client(channel, place.store)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("corpus")
    store, ingest = FilesystemStore.open(folder / "objects"), Ingest()
    await ingest.commit(DATASET, *write_dataset(store, library_documents()))
    async with serve_ingest(ingest) as (address, server):
        yield Place(folder, store, ingest, address, server)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(place: Place) -> AsyncIterator[Client]:
    async with serve_corpus(place) as client:
        yield client
