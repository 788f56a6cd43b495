from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from longhaul_core.clock import ManualClock
from longhaul_core.db import ResourceRow, resources
from longhaul_core.db.session import Session
from longhaul_core.errors import FailedPrecondition
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.resume import resumed
from longhaul_core.rpc.server import ServiceContext, ServiceDefinition, running_service
from longhaul_core.rpc.watch import watch
from longhaul_core.settings import ServiceSettings

WATCH = "longhaul.test.v1.WatchService"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def create(session: Session, id: str) -> ResourceRow:
    row, _ = resources.create(session, kind="run", project="demo", id=id, spec={}, state="S", fingerprint=id, now=NOW)
    return row


class WatchService:
    """A Watch as the services write it: request is the revision, answers are `revision id`."""

    context: ServiceContext

    async def build(self, context: ServiceContext) -> ServiceDefinition:
        self.context = context
        return ServiceDefinition(register=self.register)

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        async for row in watch(self.context.db, "run", "demo", after_revision=int(request), context=context):
            yield f"{row.revision} {row.id}".encode()

    def register(self, server: grpc.aio.Server) -> list[str]:
        handlers = {"Watch": grpc.unary_stream_rpc_method_handler(self.watch)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(WATCH, handlers),))
        return [WATCH]


def follow(channel: grpc.aio.Channel, after_revision: int = 0) -> AsyncIterator[bytes]:
    return resumed(
        lambda revision: channel.unary_stream(f"/{WATCH}/Watch")(str(revision).encode()),
        lambda answer: int(answer.split()[0]),
        after_revision=after_revision,
    )


async def test_watch_goes_on_through_a_restart_of_its_server(settings: ServiceSettings, free_port: int) -> None:
    fixed = settings.model_copy(update={"listen_address": f"127.0.0.1:{free_port}"})
    seen: list[str] = []
    async with connect(f"127.0.0.1:{free_port}") as channel:
        stream = follow(channel)  # opened before the server is there

        async def next_id() -> None:
            seen.append((await asyncio.wait_for(anext(stream), 90)).decode().split()[1])

        for ids in (("a", "b"), ("c",)):
            service = WatchService()
            async with running_service(fixed, service.build):
                for id in ids:
                    await service.context.db.run(lambda session, id=id: create(session, id))
                    await next_id()
    assert seen == ["a", "b", "c"]


async def test_watch_stopping_server_ends_streams_at_once(settings: ServiceSettings) -> None:
    patient = settings.model_copy(update={"shutdown_grace_seconds": 60.0})
    service = WatchService()
    async with asyncio.timeout(90):
        async with running_service(patient, service.build) as address:
            channel = connect(address)
            call = channel.unary_stream(f"/{WATCH}/Watch")(b"0")
            await service.context.db.run(lambda session: create(session, "a"))
            assert (await call.read()).endswith(b" a")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await channel.close()


async def test_watch_refused_is_raised_not_repeated(settings: ServiceSettings) -> None:
    service = WatchService()
    async with running_service(settings, service.build) as address, connect(address) as channel:
        with pytest.raises(FailedPrecondition) as caught:
            await asyncio.wait_for(anext(follow(channel, after_revision=99)), 10)
    assert caught.value.reason == "REVISION_AHEAD"


async def test_resumed_waits_longer_while_nothing_comes() -> None:
    clock = ManualClock()
    opened: list[float] = []

    async def empty(revision: int) -> AsyncIterator[int]:
        opened.append(clock.monotonic())
        for number in ():
            yield number

    task = asyncio.create_task(anext(resumed(empty, int, clock=clock)))
    for _ in range(400):
        await asyncio.sleep(0)
        clock.advance(0.05)
    task.cancel()
    gaps = [later - earlier for earlier, later in itertools.pairwise(opened)]
    assert 0.05 <= gaps[0] <= 0.2
    assert max(gaps) > 1.0
    assert max(gaps) <= 5.1
