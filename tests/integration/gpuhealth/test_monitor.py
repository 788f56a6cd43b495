"""Monitors over a cluster in memory and real exporters: refusals, shards, discovery, Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import Node, NodePatch, PodSpec
from longhaul_core.cluster.fake import FakeCluster
from longhaul_core.db import Database
from longhaul_core.errors import LonghaulError, PermissionDenied, Unavailable
from longhaul_core.metrics import Metrics
from longhaul_gpuhealth.adapters.marks import SESSION
from longhaul_gpuhealth.adapters.records import NodeRecords
from longhaul_gpuhealth.adapters.rules_source import RulesSource
from longhaul_gpuhealth.domain.explanation import explain
from longhaul_gpuhealth.domain.model import HealthState
from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import Scenario
from longhaul_gpuhealth.exporter.server import ExporterServer
from longhaul_gpuhealth.monitor.measures import Measures
from longhaul_gpuhealth.monitor.monitor import Monitor
from longhaul_gpuhealth.settings import GpuHealthSettings

Replica = tuple[Monitor, "asyncio.Task[None]"]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
NODES = [f"n{index}" for index in range(12)]
FAULTS = {
    "hang": "no full answer within",
    "drop": "Disconnected",
    "malformed": "line 2 is no sample",
    "html": "content type text/html",
    "fail": "HTTP status 500",
    "slow": "no full answer within",
    "endless": "more than 1000000 bytes",
}
"""How an exporter may misbehave, and what is said of it."""
EVENTS: list[dict[str, Any]] = [{"name": f"fall-{node}", "node": node, "gpu": 0, "xid": 79} for node in NODES]
EVENTS.append({"name": "slow-clock", "node": "n9", "gpu": 1, "signals": {"DCGM_FI_DEV_SM_CLOCK": 300}})
EVENTS += [{"name": fault, "node": node, "exporter": fault} for fault, node in zip(FAULTS, NODES, strict=False)]
SCENARIO = Scenario.model_validate({"nodes": {"n[0-11]": {"gpus": 2}}, "events": EVENTS})


@dataclass(slots=True)
class Guarded(FakeCluster):
    """Refuses to patch nodes, as an API server does without the right or while it is away."""

    refusal: LonghaulError | None = None
    patched: list[str] = field(default_factory=list)

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        if self.refusal is not None:
            raise self.refusal
        if patch.unschedulable:
            self.patched.append(name)
        return await FakeCluster.patch_node(self, name, patch, expected_version=expected_version)


@dataclass
class World:
    """A cluster, its exporters, and replicas that share a database."""

    root: Path
    cluster: Guarded
    fleet: Fleet
    server: ExporterServer
    url: str
    db: Database
    scraped: dict[str, float] = field(default_factory=dict)

    @asynccontextmanager
    async def replica(
        self, rules: Path | None = None, **changes: Any
    ) -> AsyncIterator[tuple[Monitor, asyncio.Task[None]]]:
        values = {"data_dir": self.root, "scrape_interval_seconds": 0.3, "budget_minimum_nodes": 12, **changes}
        settings = GpuHealthSettings(**values)
        records, measures = NodeRecords(self.db, SystemClock()), Measures(Metrics("gpuhealth"))
        source = RulesSource.open(rules)
        monitor = Monitor(settings, self.db, SystemClock(), self.cluster, records, source, measures, "here")
        stop = asyncio.Event()
        running = asyncio.create_task(monitor.run(stop))
        try:
            yield monitor, running
        finally:
            stop.set()
            await asyncio.wait([running])

    def trigger(self, node: str) -> None:
        self.play(f"fall-{node}")

    def play(self, event: str) -> None:
        assert self.fleet.trigger(event, self.server._now())

    async def state(self, node: str) -> HealthState | None:
        stored = (await NodeRecords(self.db, SystemClock()).all()).get(node)
        return stored.record.state if stored else None

    async def all_in(self, state: HealthState) -> bool:
        stored = await NodeRecords(self.db, SystemClock()).all()
        return [one.record.state for one in stored.values()] == [state] * len(NODES)

    async def events(self, node: str) -> list[str]:
        return [row.type for row in await NodeRecords(self.db, SystemClock()).events(node, 100)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    fleet = Fleet(SCENARIO)
    server = ExporterServer(fleet, SystemClock())
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    cluster = Guarded(SystemClock())
    for node in NODES:
        cluster.add_node(node, gpus=2, exporter_url=f"{url}/nodes/{node}/metrics")
    db = await asyncio.to_thread(Database.open, f"sqlite:///{tmp_path}/gpuhealth.sqlite3")
    yield World(tmp_path, cluster, fleet, server, url, db)
    await asyncio.to_thread(db.close)
    await runner.cleanup()


async def test_bad_exporters_make_their_nodes_unknown_and_no_others(world: World, eventually: Eventually) -> None:
    async with world.replica(scrape_maximum_bytes=1_000_000, scrape_timeout_seconds=0.5) as (monitor, _):
        await eventually(lambda: world.all_in(HealthState.HEALTHY))
        for fault in FAULTS:
            world.play(fault)

        async def silent() -> list[str]:
            return [node for node in NODES if await world.state(node) is HealthState.UNKNOWN]

        async def all_silent() -> bool:
            return len(await silent()) == len(FAULTS)

        await eventually(all_silent)
        assert await silent() == NODES[: len(FAULTS)]
        for node, says in zip(NODES, FAULTS.values(), strict=False):
            reason = (await monitor.records.get(node)).record.reason
            assert reason.code == "NO_SIGNAL"
            assert says in reason.message
        assert world.cluster.patched == []
        assert {await world.state(node) for node in NODES[len(FAULTS) :]} == {HealthState.HEALTHY}


@pytest.mark.parametrize(
    "refusal",
    [
        PermissionDenied("may not patch nodes", reason="FORBIDDEN", action="grant patch on nodes"),
        Unavailable("the API server is away", reason="UNREACHABLE"),
    ],
    ids=["forbidden", "away"],
)
async def test_refused_cordon_is_told_counted_and_tried_until_it_is_allowed(
    world: World, eventually: Eventually, refusal: LonghaulError
) -> None:
    async with world.replica() as (monitor, _):
        await eventually(lambda: world.all_in(HealthState.HEALTHY))
        world.cluster.refusal = refusal
        world.trigger("n3")

        async def told() -> bool:
            return "MARKS_REFUSED" in await world.events("n3")

        await eventually(told)
        stored = await monitor.records.get("n3")
        assert f"{refusal.reason}: {refusal}" in "\n".join(explain(stored.record, monitor.rules.rules))

        async def tried_again() -> bool:
            return bool(monitor.measures.actions.labels("mark", refusal.reason)._value.get() >= 2)

        await eventually(tried_again)
        world.cluster.refusal = None

        async def marked() -> bool:
            return (await world.cluster.get_node("n3")).unschedulable

        await eventually(marked)

        async def clear() -> bool:
            return not (await monitor.records.get("n3")).record.trouble

        await eventually(clear)
        types = await world.events("n3")
        assert (types.count("QUARANTINED"), types.count("MARKS_REFUSED")) == (1, 1)


async def test_replicas_share_nodes_and_a_dead_ones_are_taken_over_without_double_action(
    world: World, eventually: Eventually
) -> None:
    async with world.replica() as (first, _), world.replica() as (second, running):
        owned = lambda monitor: {node for node in NODES if monitor.live_verdict(node) is not None}  # noqa: E731

        async def shared() -> bool:
            shards = [len(one._parts.leases.owned) if one._parts else 0 for one in (first, second)]
            return shards == [8, 8] and owned(first) | owned(second) == set(NODES)

        await eventually(shared)
        await eventually(lambda: world.all_in(HealthState.HEALTHY))
        theirs = owned(second)
        assert theirs
        assert not theirs & owned(first)
        _die(second, running)
        for node in theirs:
            world.trigger(node)

        async def taken_over() -> bool:
            return owned(first) == set(NODES)

        await eventually(taken_over)

        async def all_out() -> bool:
            return all([await world.state(node) is HealthState.QUARANTINED for node in theirs])

        await eventually(all_out)

        async def all_marked() -> bool:
            return all([SESSION in (await world.cluster.get_node(node)).annotations for node in theirs])

        await eventually(all_marked)
        for node in theirs:
            assert (await world.events(node)).count("QUARANTINED") == 1
        assert sorted(world.cluster.patched) == sorted(theirs)


PEER_RULES = """
version: "peers"
rules:
  - id: straggler
    signal: DCGM_FI_DEV_SM_CLOCK
    when: {below_deviations: 8, peers: 20}
    severity: warning
    action: diagnose
    description: Slower than more peers than one replica watches.
"""


async def test_peers_of_a_gpu_are_those_of_all_replicas(world: World, eventually: Eventually, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(PEER_RULES)
    async with world.replica(rules=rules) as (first, _):
        await eventually(lambda: world.all_in(HealthState.HEALTHY))
        async with world.replica(rules=rules) as (second, _):
            parts = lambda: [one._parts for one in (first, second)]  # noqa: E731

            async def shared() -> bool:
                return [len(one.leases.owned) if one else 0 for one in parts()] == [8, 8]

            await eventually(shared)
            world.play("slow-clock")

            async def found() -> bool:
                return await world.state("n9") is HealthState.SUSPECT

            await eventually(found)
            [finding] = (await first.records.get("n9")).record.findings
            assert (finding.rule, finding.gpu) == ("straggler", 1)
            assert max(len(one.actor.known) for one in parts() if one) < len(NODES), "no replica saw all peers"


def _die(monitor: Monitor, running: asyncio.Task[None]) -> None:
    """End a replica as kill -9 would: nothing is given back."""
    assert monitor._parts is not None
    monitor._parts.leases.owned = {}
    monitor._parts.leases.holder = "gone"
    running.cancel()


async def test_exporters_are_found_by_their_pods(world: World, eventually: Eventually) -> None:
    for node in NODES:
        world.cluster._nodes[node] = Node(node, node, True, 2, "1")
    port = world.url.rpartition(":")[2]
    labels = {"app.kubernetes.io/name": "dcgm-exporter"}
    await world.cluster.create_pod(PodSpec(name="exporter", command=("x",), node="n4", labels=labels))
    key = ("default", "exporter")
    from dataclasses import replace

    world.cluster._pods[key] = replace(world.cluster._pods[key], pod_ip="127.0.0.1")
    url = f"http://{{address}}:{port}/nodes/n4/metrics"
    async with world.replica(discovery="pods", exporter_pod_url=url):

        async def heard() -> bool:
            return await world.state("n4") is HealthState.HEALTHY

        await eventually(heard)
        assert await world.state("n5") is HealthState.UNKNOWN


async def test_exporters_are_found_by_a_list_that_may_change(
    world: World, eventually: Eventually, tmp_path: Path
) -> None:
    listed = tmp_path / "exporters.yaml"
    listed.write_text(f"n1: {world.url}/nodes/n1/metrics\n")
    async with world.replica(discovery="list", exporters_file=listed):

        async def healthy(node: str) -> bool:
            return await world.state(node) is HealthState.HEALTHY

        await eventually(lambda: healthy("n1"))
        listed.write_text(f"n1: {world.url}/nodes/n1/metrics\nn2: [{world.url}/nodes/n2/metrics]\n")
        await eventually(lambda: healthy("n2"))


def prometheus_answer(fleet: Fleet, second: float) -> dict[str, Any]:
    """What Prometheus answers to an instant query, with the labels that it renames."""
    from longhaul_gpuhealth.domain.exposition import PageReader

    result = []
    for node in NODES:
        for series, value in PageReader().read(fleet.page(node, second)):
            labels = {"__name__": series.name, "job": "dcgm", "instance": "x", **series.labels}
            labels["exported_gpu"], labels["gpu"] = labels["gpu"], "9"
            result.append({"metric": labels, "value": [second, str(value)]})
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


async def test_signals_come_from_a_prometheus_by_query(world: World, eventually: Eventually) -> None:
    queries: list[str] = []

    async def query(request: web.Request) -> web.Response:
        queries.append(str((await request.post())["query"]))
        return web.json_response(prometheus_answer(world.fleet, world.server._now()))

    application = web.Application(client_max_size=1 << 26)
    application.add_routes([web.post("/api/v1/query", query)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for node in NODES:
        world.cluster._nodes[node] = Node(node, node, True, 2, "1")
    async with world.replica(prometheus_url=url):
        await eventually(lambda: world.all_in(HealthState.HEALTHY))
        assert "DCGM_FI_DEV_XID_ERRORS" in queries[0]
        world.trigger("n7")

        async def out() -> bool:
            return await world.state("n7") is HealthState.QUARANTINED

        await eventually(out)
        await runner.cleanup()

        async def unknown() -> bool:
            return await world.state("n1") is HealthState.UNKNOWN

        await eventually(unknown)
