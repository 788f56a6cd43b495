"""What the ingest tests share: a client, sources written to disk, and a service process that can be killed."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from longhaul.common.v1 import resource_pb2
from longhaul.ingest.v1 import dataset_pb2 as dataset
from longhaul.ingest.v1 import ingestion_pb2 as ingestion
from longhaul.ingest.v1.dataset_pb2_grpc import DatasetServiceStub
from longhaul.ingest.v1.ingestion_pb2_grpc import IngestionServiceStub
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import FilesystemStore

PROJECT = "projects/test"
CRAWL = Path(__file__).parents[3] / "examples/python-docs/python-docs.warc.gz"
DEADLINE_SECONDS = 180.0
ENDED = {
    resource_pb2.JOB_STATE_SUCCEEDED,
    resource_pb2.JOB_STATE_FAILED,
    resource_pb2.JOB_STATE_CANCELLED,
}

PROSE = (
    "The harbour of the old town lies below a hill, and the boats that leave it in the morning have to be back before "
    "the tide turns. Number {number} of them belongs to a fisher who knows each rock of the coast by heart; people say "
    "that he could sail home with his eyes shut. In the evening the nets are spread out to dry, the children count the "
    "fish, and whoever has time sits on the wall to talk about weather {number} and about prices at the market."
)


def source(name: str, kind: str, *locations: Path, **fields: object) -> ingestion.Source:
    """A source of a spec."""
    paths = [str(location) for location in locations]
    return ingestion.Source(name=name, kind=f"SOURCE_KIND_{kind}", locations=paths, **fields)


def spec(*sources: ingestion.Source, filters: Sequence[str] = (), **fields: object) -> ingestion.IngestionSpec:
    """A spec in fast mode."""
    named = [ingestion.Filter(name=name) for name in filters]
    return ingestion.IngestionSpec(sources=sources, extraction_mode="EXTRACTION_MODE_FAST", filters=named, **fields)


class Client:
    """A service as a user sees it, with the store that it writes to."""

    def __init__(self, channel: grpc.aio.Channel, store: FilesystemStore) -> None:
        self.ingestions = IngestionServiceStub(channel)
        self.datasets = DatasetServiceStub(channel)
        self.store = store

    async def create(self, id: str, wanted: ingestion.IngestionSpec, request_id: str = "") -> ingestion.Ingestion:
        request = ingestion.CreateIngestionRequest(parent=PROJECT, ingestion_id=id, spec=wanted, request_id=request_id)
        return await self.ingestions.CreateIngestion(request, wait_for_ready=True)

    async def get(self, id: str) -> ingestion.Ingestion:
        request = ingestion.GetIngestionRequest(name=f"{PROJECT}/ingestions/{id}")
        return await self.ingestions.GetIngestion(request, wait_for_ready=True)

    async def end(self, id: str) -> ingestion.Ingestion:
        """The ingestion as it is when it has ended."""
        return await self.until(id, lambda now: now.status.state in ENDED)

    async def until(self, id: str, wanted: Callable[[ingestion.Ingestion], bool]) -> ingestion.Ingestion:
        """The ingestion as it is when a condition holds, seen by watching it."""
        request = ingestion.WatchIngestionsRequest(parent=PROJECT, name=f"{PROJECT}/ingestions/{id}")
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for answer in self.ingestions.WatchIngestions(request, wait_for_ready=True):
                if wanted(answer.ingestion):
                    return answer.ingestion
        raise AssertionError("the watch ended")

    async def run(self, id: str, wanted: ingestion.IngestionSpec) -> ingestion.Ingestion:
        """Create and wait for the end."""
        await self.create(id, wanted)
        return await self.end(id)

    async def events(self, id: str) -> list[str]:
        """The types of an ingestion's events."""
        request = ingestion.ListIngestionEventsRequest(name=f"{PROJECT}/ingestions/{id}")
        return [event.type for event in (await self.ingestions.ListIngestionEvents(request)).events]

    async def dataset(self, id: str) -> dataset.Dataset:
        return await self.datasets.GetDataset(dataset.GetDatasetRequest(name=f"{PROJECT}/datasets/{id}"))

    async def manifest(self, id: str) -> Manifest:
        found = await self.dataset(id)
        return read_manifest(self.store, found.manifest_key)

    async def rows(self, id: str, part: str = "shard") -> list[dict[str, str]]:
        """The rows of all parts of a dataset, in order."""
        manifest = await self.manifest(id)
        tables = [
            pq.read_table(pa.BufferReader(self.store.get(item.key)))
            for item in manifest.parts
            if f"/{part}-" in item.key and item.key.endswith(".parquet")
        ]
        return [row for table in tables for row in table.to_pylist()]


class Process:
    """The service as a process of its own."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{port}"

    def start(self, **settings: object) -> None:
        environment = {
            **os.environ,
            "LONGHAUL_DATA_DIR": str(self._data_dir),
            "LONGHAUL_LISTEN_ADDRESS": self.address,
            "LONGHAUL_METRICS_ADDRESS": "",
            "LONGHAUL_WORKERS": "1",
            "LONGHAUL_SHARD_LEASE_SECONDS": "2",
            "LONGHAUL_LOG_LEVEL": "error",
            **{f"LONGHAUL_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process = subprocess.Popen([sys.executable, "-m", "longhaul_ingest"], env=environment)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)

    def wait_killed(self) -> None:
        """Wait until the process killed itself at a failpoint."""
        assert self._process is not None
        assert self._process.wait(DEADLINE_SECONDS) == -signal.SIGKILL

    def stop(self) -> int:
        if self._process is None or self._process.poll() is not None:
            return 0
        self._process.terminate()
        return self._process.wait(DEADLINE_SECONDS)

    def workers(self) -> list[psutil.Process]:
        """The engine's worker processes."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until a condition holds; for conditions that no event announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


def http(body: bytes, status: str = "200 OK", content_type: str = "text/html", extra: str = "") -> bytes:
    """An HTTP response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def warc_record(url: str, block: bytes, kind: str = "response", content_type: str = "application/http") -> bytes:
    """A WARC record, not compressed."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2025-06-02T08:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{abs(hash(url)):032x}>\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def page(number: int) -> bytes:
    """An HTML page of prose."""
    paragraphs = "".join(f"<p>{PROSE.format(number=number * 10 + part)}</p>" for part in range(2))
    return f"<html><body><main><h1>Page {number}</h1>{paragraphs}</main></body></html>".encode()


def write_warc(path: Path, records: Mapping[str, bytes]) -> Path:
    """A WARC with one gzip member a record."""
    path.write_bytes(b"".join(gzip.compress(warc_record(url, block)) for url, block in records.items()))
    return path
