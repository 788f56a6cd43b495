"""`kill -9` of the service and of its workers at every phase: the same token set, bit for bit."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import corpus_build_pb2 as pb
from longhaul_core.errors import LonghaulError
from longhaul_core.manifests import read_manifest
from longhaul_core.rpc.client import connect, rpc_errors

from tests.integration.corpus.conftest import Place, serve_corpus
from tests.integration.corpus.support import ENDED, Client, Process, spec, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KILL_AT = ("corpus.item-worked:2", "corpus.phase-finished:3", "corpus.item-recorded:6")
"""Each counts from the start of a process: together they end it in all parts of a build."""


async def content_digest(client: Client, id: str) -> str:
    token_set = await client.token_set(id)
    return str(read_manifest(client.store, token_set.manifest_key).extra["content_digest"])


async def test_killed_workers_are_replaced_and_the_token_set_is_the_same(client: Client) -> None:
    await client.run("unbroken", spec())
    killed = 0
    await client.create("broken", spec())

    async def kill_one() -> pb.CorpusBuild:
        nonlocal killed
        build = await client.get("broken")
        if build.status.state == resource_pb2.JOB_STATE_RUNNING and not killed:
            killed += _kill_workers()
        return build

    done = await until(kill_one, lambda build: build.status.state == resource_pb2.JOB_STATE_SUCCEEDED)
    assert killed
    assert done.status.documents_in > 0
    assert await content_digest(client, "broken") == await content_digest(client, "unbroken")


def _kill_workers() -> int:
    killed = 0
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "engine.worker" in " ".join(child.cmdline()):
                child.kill()
                killed += 1
    return killed


@pytest.mark.timeout(600)
async def test_service_killed_between_durable_steps_resumes_and_gives_the_same_token_set(
    client: Client, place: Place, tmp_path: Path
) -> None:
    process = Process(place.folder / "second", place.ingest_address, place.folder / "objects")
    try:
        for number, point in enumerate(KILL_AT):
            process.start(failpoints=point)
            async with connect(process.address) as channel:
                if not number:
                    await until(lambda: _create(Client(channel, place.store)), bool)
                await asyncio.to_thread(process.wait_killed)
        process.start()
        async with connect(process.address) as channel:
            second = Client(channel, place.store)
            await until(lambda: _look(second), lambda build: build and build.status.state in ENDED)
            assert await content_digest(second, "killed") == await content_digest(client, "unbroken")
    finally:
        process.stop()


async def test_replica_that_drains_hands_its_work_to_the_other(client: Client, place: Place) -> None:
    async with serve_corpus(place) as other:
        await other.create("handed", spec())
        await until(lambda: other.get("handed"), lambda build: build.status.state == resource_pb2.JOB_STATE_RUNNING)
    done = await client.ended("handed")
    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    assert await content_digest(client, "handed") == await content_digest(client, "unbroken")


async def _create(client: Client) -> bool:
    try:
        with rpc_errors():
            await client.create("killed", spec())
    except LonghaulError:
        return False
    return True


async def _look(client: Client) -> pb.CorpusBuild | None:
    try:
        with rpc_errors():
            return await client.get("killed")
    except LonghaulError:
        return None
