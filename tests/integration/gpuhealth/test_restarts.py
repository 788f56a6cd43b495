"""The service, the cluster's nodes or the exporter end in the middle: the same end state."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul.gpuhealth.v1 import node_health_pb2_grpc
from longhaul_core.clock import SystemClock
from longhaul_core.cluster.local.launch import running_nodes, start_node
from longhaul_core.db import Database
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_gpuhealth.adapters.marks import SESSION, TAINT
from longhaul_gpuhealth.adapters.records import NodeRecords
from longhaul_gpuhealth.app import build
from longhaul_gpuhealth.operations import Operations

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
GET = pb.GetNodeHealthRequest(name="nodes/node-1")


@asynccontextmanager
async def serving(site: Any, **changes: Any) -> AsyncIterator[Any]:
    async with running_service(site.settings(**changes), build) as address:
        channel = connect(address)
        yield node_health_pb2_grpc.NodeHealthServiceStub(channel)
        await channel.close()


async def is_marked(site: Any, node: str = "node-1") -> bool:
    return bool((await site.cluster.get_node(node)).has_taint(TAINT.key))


async def is_unmarked(site: Any) -> bool:
    return not await is_marked(site)


async def in_state(stub: Any, state: int) -> bool:
    answer = await stub.ListNodeHealth(pb.ListNodeHealthRequest())
    return any(node.node == "node-1" and node.state == state for node in answer.nodes)


async def test_restarted_service_keeps_quarantine_and_forgets_no_release(site: Any, eventually: Eventually) -> None:
    async with serving(site, scrape_timeout_seconds=10.0) as stub:
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_HEALTHY))
        await site.exporter.trigger("off-bus-1")
        await eventually(lambda: is_marked(site))
    session = (await site.cluster.get_node("node-1")).annotations[SESSION]
    async with serving(site, scrape_timeout_seconds=10.0) as stub:
        health = await stub.GetNodeHealth(GET)
        assert health.state == pb.HEALTH_STATE_QUARANTINED
        assert health.drain.session == session
        release = pb.ReleaseNodeRequest(name="nodes/node-1", reason="fixed", author="ada")
        await stub.ReleaseNode(release)
    async with serving(site, scrape_timeout_seconds=10.0) as stub:
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_HEALTHY))
        await eventually(lambda: is_unmarked(site))
        await stub.ReleaseNode(release)
        answer = await stub.ExplainVerdict(pb.ExplainVerdictRequest(name="nodes/node-1"))
        types = [event.type for event in answer.events]
        assert (types.count("QUARANTINED"), types.count("RELEASED")) == (1, 1)
        assert not any(event.cause == "NO_SIGNAL" for event in answer.events[2:])


async def test_fault_while_the_service_is_down_is_found_when_it_is_back(site: Any, eventually: Eventually) -> None:
    async with serving(site) as stub:
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_HEALTHY))
    await site.exporter.trigger("off-bus-1")
    async with serving(site) as stub:
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_QUARANTINED))
        await eventually(lambda: is_marked(site))


async def test_decision_stored_before_a_crash_is_carried_out_after_it(site: Any, eventually: Eventually) -> None:
    settings = site.settings()
    async with serving(site) as stub:
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_HEALTHY))
    db = await asyncio.to_thread(Database.open, settings.resolved_database_url)
    operations = Operations(NodeRecords(db, SystemClock()), SystemClock(), settings.policy)
    await operations.quarantine("node-1", reason="by hand", author="ada", force=False)
    assert not await is_marked(site)
    await asyncio.to_thread(db.close)
    async with serving(site):
        await eventually(lambda: is_marked(site))


async def test_node_process_killed_is_still_marked(site: Any, machines: Any, eventually: Eventually) -> None:
    async with serving(site) as stub:
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_HEALTHY))
        pid = running_nodes(site.cluster_dir)["node-1"]
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)
        try:
            await site.exporter.trigger("off-bus-1")
            await eventually(lambda: is_marked(site))
            assert not (await site.cluster.get_node("node-1")).ready
        finally:
            url = f"http://127.0.0.1:{machines.exporter_port}/nodes/node-1/metrics"
            await asyncio.to_thread(start_node, site.cluster_dir, "node-1", gpus=2, exporter_url=url)
        assert await is_marked(site)


async def test_second_replica_takes_over_and_marks_nothing_twice(site: Any, eventually: Eventually) -> None:
    async with serving(site) as first:
        await eventually(lambda: in_state(first, pb.HEALTH_STATE_HEALTHY))
        async with serving(site) as second:
            await second.QuarantineNode(pb.QuarantineNodeRequest(name="nodes/node-1", reason="x", author="ada"))
            await eventually(lambda: is_marked(site))
            await second.ReleaseNode(pb.ReleaseNodeRequest(name="nodes/node-1", reason="x", author="ada"))
            await eventually(lambda: in_state(first, pb.HEALTH_STATE_HEALTHY))
    async with serving(site, budget_minimum_nodes=3) as third:
        await site.exporter.trigger("off-bus-0")
        await eventually(lambda: is_marked(site, "node-0"))
        answer = await third.ExplainVerdict(pb.ExplainVerdictRequest(name="nodes/node-0"))
        assert [event.type for event in answer.events].count("QUARANTINED") == 1


@pytest.mark.parametrize("moment", ["fault", "decision", "mark"])
async def test_service_killed_right_after_a_step_ends_the_same(site: Any, eventually: Eventually, moment: str) -> None:
    settings = site.settings()
    environment = {
        **os.environ,
        "LONGHAUL_LISTEN_ADDRESS": "127.0.0.1:0",
        "LONGHAUL_METRICS_ADDRESS": "",
        "LONGHAUL_DATA_DIR": str(settings.data_dir),
        "LONGHAUL_CLUSTER_URL": settings.cluster_url,
        "LONGHAUL_SCRAPE_INTERVAL_SECONDS": "0.2",
        "LONGHAUL_LEASE_SECONDS": "1",
    }
    command = (sys.executable, "-m", "longhaul_gpuhealth")
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async for line in process.stderr:
        if b"shards taken" in line:
            break
    async with serving(site) as stub:
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_HEALTHY))
        await site.exporter.trigger("off-bus-1")
        if moment == "decision":
            await eventually(lambda: in_state(stub, pb.HEALTH_STATE_QUARANTINED))
        elif moment == "mark":
            await eventually(lambda: is_marked(site))
        process.kill()
        await process.wait()
        await eventually(lambda: is_marked(site))
        await eventually(lambda: in_state(stub, pb.HEALTH_STATE_QUARANTINED))
        answer = await stub.ExplainVerdict(pb.ExplainVerdictRequest(name="nodes/node-1"))
        assert [event.type for event in answer.events].count("QUARANTINED") == 1
        assert answer.node.drain.session == (await site.cluster.get_node("node-1")).annotations[SESSION]
