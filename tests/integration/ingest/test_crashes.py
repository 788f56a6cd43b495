"""The service killed at any moment and started again gives the dataset of an undisturbed run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from longhaul.common.v1 import resource_pb2
from longhaul_core.manifests import Manifest
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_ingest.adapters.failpoints import Point
from longhaul_ingest.app import build
from longhaul_ingest.settings import IngestSettings

from tests.integration.ingest.conftest import Serve
from tests.integration.ingest.support import Client, Process, http, page, source, spec, wait_until, write_warc

PAGES = 40


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages in one file of several shards, by incompressible attributes of some size."""
    pages = {f"http://site.test/{number}": http(_heavy(number)) for number in range(PAGES)}
    return write_warc(tmp_path_factory.mktemp("source") / "crawl.warc.gz", pages)


def _heavy(number: int) -> bytes:
    noise = random.Random(number).randbytes(30_000).hex()
    return page(number).replace(b"<main>", f"<main data-x='{noise}'>".encode())


@asynccontextmanager
async def connected(process: Process, store: FilesystemStore) -> AsyncIterator[Client]:
    async with connect(process.address) as channel:
        yield Client(channel, store)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, crawl: Path) -> dict[str, object]:
    """Content and counts as a service gives them that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = IngestSettings(
        data_dir=folder, listen_address="127.0.0.1:0", metrics_address="", log_level="error", workers=1
    )

    async def run() -> dict[str, object]:
        async with running_service(settings, build) as address, connect(address) as channel:
            client = Client(channel, FilesystemStore.open(folder / "objects"))
            await client.run("docs", spec(source("docs", "WARC", crawl)))
            return _content(await client.manifest("docs"))

    content = asyncio.run(run())
    assert content["counts"] == {"read": PAGES, "kept": PAGES, "dropped": 0, "failed": 0}
    return content


def _content(manifest: Manifest) -> dict[str, object]:
    dump = manifest.model_dump(mode="json")
    parts = [(part["key"], part["size"], part["digest"]) for part in dump["parts"]]
    return {"parts": parts, "counts": dump["counts"], "extra": dump["extra"]}


async def test_service_killed_at_each_point_in_turn_gives_the_undisturbed_dataset(
    process: Process, store: FilesystemStore, crawl: Path, undisturbed: dict[str, object]
) -> None:
    wanted = spec(source("docs", "WARC", crawl))
    for point in (Point.PLANNED, Point.SHARD_WORKED, Point.SHARD_RECORDED, Point.BEFORE_MANIFEST, Point.AFTER_MANIFEST):
        process.start(failpoints=point.value)
        async with connected(process, store) as client:
            if point is Point.PLANNED:
                await client.create("docs", wanted)
            await asyncio.to_thread(process.wait_killed)
    process.start()
    async with connected(process, store) as client:
        done = await client.end("docs")
        content = _content(await client.manifest("docs"))

        assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
        assert content == undisturbed
        again = await client.create("docs", wanted)
        assert again.metadata.uid == done.metadata.uid
        assert (await client.dataset("docs")).documents == PAGES


async def test_service_killed_during_work_gives_the_undisturbed_dataset(
    process: Process, store: FilesystemStore, crawl: Path, undisturbed: dict[str, object]
) -> None:
    process.start()
    async with connected(process, store) as client:
        await client.create("docs", spec(source("docs", "WARC", crawl)))
        await client.until("docs", lambda now: now.status.documents_read > 0)
        workers = process.workers()
        process.kill()
    assert workers
    assert not [found.key for found in store.list() if found.key.endswith("manifest.json")]
    assert psutil.wait_procs(workers, timeout=60)[1] == []  # they die with the service
    process.start()
    async with connected(process, store) as client:
        done = await client.end("docs")

        assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
        assert _content(await client.manifest("docs")) == undisturbed


async def test_worker_killed_once_is_replaced_and_nothing_is_lost(
    process: Process, store: FilesystemStore, crawl: Path, undisturbed: dict[str, object]
) -> None:
    process.start()
    async with connected(process, store) as client:
        await client.create("docs", spec(source("docs", "WARC", crawl)))
        await asyncio.to_thread(wait_until, lambda: bool(process.workers()), "a worker")
        while "WORKER_DIED" not in await client.events("docs"):
            for worker in process.workers():
                worker.kill()
        done = await client.end("docs")

        assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
        assert _content(await client.manifest("docs")) == undisturbed


async def test_two_replicas_share_the_work_and_one_drains(
    serve: Serve, crawl: Path, undisturbed: dict[str, object]
) -> None:
    async with serve() as first:
        async with serve(shard_lease_seconds=30.0) as second:
            await second.create("docs", spec(source("docs", "WARC", crawl)))
            await second.until("docs", lambda now: now.status.documents_read > 0)
        done = await first.end("docs")

        assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
        assert _content(await first.manifest("docs")) == undisturbed


async def test_shard_that_kills_every_worker_fails_the_ingestion_and_is_named(
    process: Process, store: FilesystemStore, tmp_path: Path
) -> None:
    """A worker is killed as soon as it appears in work on the one shard, three times."""
    bomb = write_warc(tmp_path / "bomb.warc.gz", {"http://site.test/bomb": http(_heavy(1))})
    process.start()
    async with connected(process, store) as client:
        killer = asyncio.create_task(_kill_workers(process))
        try:
            done = await client.run("docs", spec(source("docs", "WARC", bomb)))
        finally:
            killer.cancel()

        assert done.status.reason.code == "POISON_SHARD"
        assert "3 times" in done.status.reason.message
        assert "bomb" in done.status.reason.message
        assert [damage for damage in done.status.damages if "bomb" in damage]


async def _kill_workers(process: Process) -> None:
    while True:
        for worker in process.workers():
            worker.kill()
        await asyncio.sleep(0.02)


async def test_worker_above_its_memory_limit_is_ended_and_its_shard_set_aside(serve: Serve, tmp_path: Path) -> None:
    """A document of 60 MB does not fit; the other file is read all the same."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "small.txt").write_text("A page that fits.")
    (folder / "vast.txt").write_text("all work and no play " * 3_000_000)
    async with serve(worker_memory_bytes=400_000_000, shard_attempts=1) as client:
        done = await client.run("docs", spec(source("texts", "TEXT", folder), maximum_lost_shards=1))
        events = await client.events("docs")

        assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
        assert events.count("WORKER_MEMORY_EXCEEDED") == 1
        (lost,) = [damage for damage in done.status.damages if "vast.txt" in damage]
        assert "more than its limit of 400000000" in lost
        assert [row["text"] for row in await client.rows("docs")] == ["A page that fits."]
