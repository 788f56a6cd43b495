"""A local cluster, the pretend exporter and the service, all real."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul.gpuhealth.v1 import node_health_pb2_grpc
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import LocalCluster, NodePatch
from longhaul_core.cluster.local.launch import running_nodes, start_node, stop_node
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_gpuhealth.app import build
from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import load_scenario
from longhaul_gpuhealth.exporter.server import ExporterServer
from longhaul_gpuhealth.settings import GpuHealthSettings

HERE, PARTS = Path(__file__).parent, ("cluster", "integration/training", "integration/trainer")
sys.path[:0] = [
    str(HERE),
    *(str(HERE.parent / name) for name in ("training", "trainer")),
    str(HERE.parents[1] / "cluster"),
]

DEADLINE_SECONDS = 180.0
NODES = ("node-0", "node-1", "node-2")
SCENARIO = """
seed: 11
nodes:
  node-0: {gpus: 2}
  node-1: {gpus: 2}
  node-2: {gpus: 2}
events:
  - {name: off-bus-0, node: node-0, gpu: 1, xid: 79}
  - {name: off-bus-1, node: node-1, gpu: 0, xid: 79}
  - {name: off-bus-2, node: node-2, gpu: 0, xid: 79}
  - {name: application, node: node-1, gpu: 0, xid: 13}
  - {name: hot, node: node-1, gpu: 1, signals: {DCGM_FI_DEV_GPU_TEMP: 94}}
  - {name: nan, node: node-2, exporter: nan}
"""


@dataclass
class Exporter:
    """The exporter, at an address that the nodes know."""

    address: str

    async def trigger(self, event: str) -> None:
        async with aiohttp.ClientSession() as session:
            response = await session.post(f"http://{self.address}/events/{event}")
            assert response.status == 200, await response.text()


@dataclass
class Site:
    """A cluster whose nodes are scraped."""

    root: Path
    cluster_dir: Path
    exporter: Exporter
    cluster: LocalCluster

    def settings(self, **changes: Any) -> GpuHealthSettings:
        values = {
            "listen_address": "127.0.0.1:0",
            "metrics_address": "",
            "data_dir": self.root,
            "cluster_url": f"local://{self.cluster_dir}",
            "scrape_interval_seconds": 0.2,
            "scrape_timeout_seconds": 0.5,
            "recovery_seconds": 0.5,
            "lease_seconds": 2.0,
            "shutdown_grace_seconds": 2.0,
        }
        return GpuHealthSettings(**{**values, **changes})


@dataclass
class Service:
    """A client of the running service."""

    stub: node_health_pb2_grpc.NodeHealthServiceAsyncStub
    address: str

    async def get(self, node: str) -> pb.NodeHealth:
        return await self.stub.GetNodeHealth(pb.GetNodeHealthRequest(name=f"nodes/{node}"))

    async def in_state(self, node: str, state: int) -> bool:
        try:
            return (await self.get(node)).state == state
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False

    async def all_healthy(self) -> bool:
        return all([await self.in_state(node, pb.HEALTH_STATE_HEALTHY) for node in NODES])

    async def event_types(self, node: str) -> list[str]:
        answer = await self.stub.ExplainVerdict(pb.ExplainVerdictRequest(name=f"nodes/{node}"))
        return [event.type for event in answer.events]


@dataclass(frozen=True)
class Machines:
    """Node processes that all tests of a module share, and the port of the exporter that they name."""

    cluster_dir: Path
    exporter_port: int


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    root = tmp_path_factory.mktemp("machines")
    with ThreadPoolExecutor(len(NODES)) as threads:
        url = f"http://127.0.0.1:{port}/nodes/{{}}/metrics"
        list(threads.map(lambda node: start_node(root, node, gpus=2, exporter_url=url.format(node)), NODES))
    yield Machines(root, port)
    for node in running_nodes(root):
        stop_node(root, node)


@pytest.fixture
async def exporter(machines: Machines, tmp_path: Path) -> AsyncIterator[Exporter]:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(SCENARIO)
    fleet = Fleet(load_scenario(scenario))
    runner = web.AppRunner(ExporterServer(fleet, SystemClock()).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", machines.exporter_port, shutdown_timeout=0.1).start()
    yield Exporter(f"127.0.0.1:{machines.exporter_port}")
    await runner.cleanup()


@pytest.fixture
async def site(machines: Machines, tmp_path: Path, exporter: Exporter) -> AsyncIterator[Site]:
    cluster = LocalCluster.open(machines.cluster_dir, SystemClock())
    yield Site(tmp_path / "data", machines.cluster_dir, exporter, cluster)
    for node in await cluster.list_nodes():
        clean = NodePatch(
            unschedulable=False,
            taints_remove=node.taints,
            labels=dict.fromkeys(node.labels),
            annotations=dict.fromkeys(node.annotations),
            conditions_remove=tuple(condition.type for condition in node.conditions),
        )
        await cluster.patch_node(node.name, clean)
    await cluster.close()


@asynccontextmanager
async def serving(site: Site, **changes: Any) -> AsyncIterator[Service]:
    async with running_service(site.settings(**changes), build) as address:
        channel = connect(address)
        yield Service(node_health_pb2_grpc.NodeHealthServiceStub(channel), address)
        await channel.close()


@pytest.fixture
def serve(site: Site) -> Callable[..., AbstractAsyncContextManager[Service]]:
    return partial(serving, site)


@pytest.fixture
async def service(site: Site, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with serving(site, **getattr(request, "param", {})) as running:
        yield running


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await condition():  # noqa: ASYNC110 (any condition can be waited for)
                await asyncio.sleep(0.02)

    return wait
