"""What failures cost: a run whose GPU fails, with more killed beside it, and a replica that dies.

Part of `make bench-gpuhealth`. Real services, agents and workers for the run; for the replicas two monitors on one
database, whose cluster counts what is asked of it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
PARTS = ("cluster", "integration/gpuhealth", "integration/training", "integration/trainer")
sys.path[:0] = [str(TESTS / part) for part in PARTS]

from drain_lab import XIDS, KubeHealthLab, LocalLab, Split, Trouble, Watch, lose_gpu, start_run  # noqa: E402
from fakekube import FakeKubernetes, Fault  # noqa: E402
from longhaul_core.clock import SystemClock  # noqa: E402
from longhaul_core.cluster import Node, NodePatch  # noqa: E402
from longhaul_core.cluster.fake import FakeCluster  # noqa: E402
from longhaul_core.db import Database  # noqa: E402
from longhaul_core.metrics import Metrics  # noqa: E402
from longhaul_gpuhealth.adapters.records import NodeRecords  # noqa: E402
from longhaul_gpuhealth.adapters.rules_source import RulesSource  # noqa: E402
from longhaul_gpuhealth.domain.model import HealthState  # noqa: E402
from longhaul_gpuhealth.monitor.measures import Measures  # noqa: E402
from longhaul_gpuhealth.monitor.monitor import Monitor  # noqa: E402
from longhaul_gpuhealth.settings import GpuHealthSettings  # noqa: E402
from training_lab import Background  # noqa: E402

NODES, FAULTY, POLL_SECONDS = 200, 20, 5.0
PATIENCE_SECONDS = 120.0
Report = Callable[..., None]


def bench_drains(report: Report) -> None:
    """A fatal signal of a GPU that a run uses, alone and with something else killed: to the run's next step."""
    with tempfile.TemporaryDirectory(prefix="bench-gpuhealth-") as folder:
        local = LocalLab(Path(folder))
        try:
            start_run(local)
            for code, (name, trouble) in zip(XIDS, LOCAL.items(), strict=False):
                tell(report, name, lose_gpu(local.watch, code, trouble))
        finally:
            local.close()
    bench_api_server(report)


def bench_api_server(report: Report) -> None:
    """The same on Kubernetes, whose API dies over the marks: their answers are lost, then it is gone."""
    background, api = Background(), FakeKubernetes()
    background.run(api.start())
    lost = Fault("patch", "nodes", executed=True, times=1_000_000)

    def die(watch: Watch) -> Callable[[], None]:
        until(lambda: lost.fired)
        background.run(api.stop())
        time.sleep(2.0)
        api.ledger.faults.clear()
        background.run(api.start())
        return lambda: None

    with tempfile.TemporaryDirectory(prefix="bench-gpuhealth-") as folder:
        lab = KubeHealthLab(Path(folder), background, api)
        try:
            start_run(lab)
            api.ledger.faults.append(lost)
            tell(report, "api-server-killed", lose_gpu(lab.watch, XIDS[0], die))
        finally:
            lab.close()
            background.run(api.stop())
            background.stop()


def kill_exporter(watch: Watch) -> Callable[[], None]:
    watch.exporter.kill()
    return watch.exporter.start


def kill_service(watch: Watch) -> Callable[[], None]:
    watch.service.kill()
    watch.service.start()
    return watch.wait_ready


LOCAL: dict[str, Trouble | None] = {
    "alone": None,
    "exporter-killed": kill_exporter,
    "gpuhealth-killed": kill_service,
}


def tell(report: Report, name: str, split: Split) -> None:
    parts = {part: round(value, 3) for part, value in asdict(split).items() if part != "total"}
    unit = "s from the signal to the run's next step"
    report(f"fatal-signal-{name}", split.total, unit, "<= 60, same end state", split.total <= 60, parts=parts)


@dataclass(slots=True)
class Counted(FakeCluster):
    """Counts cordons by node."""

    cordons: dict[str, int] = field(default_factory=dict)

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        node = await FakeCluster.patch_node(self, name, patch, expected_version=expected_version)
        if patch.unschedulable:
            self.cordons[name] = self.cordons.get(name, 0) + 1
        return node


async def bench_takeover(report: Report, port: int, break_node: Callable[[str], None]) -> None:
    """One of two replicas dies as nodes of its shards fail; polls every 5 s."""
    cluster = Counted(SystemClock())
    for index in range(NODES):
        cluster.add_node(f"n{index}", gpus=8, exporter_url=f"http://127.0.0.1:{port}/n{index}")
    with tempfile.TemporaryDirectory() as root:
        settings = GpuHealthSettings(
            data_dir=Path(root), scrape_interval_seconds=POLL_SECONDS, budget_minimum_nodes=NODES
        )
        db = await asyncio.to_thread(Database.open, settings.resolved_database_url)
        stop = asyncio.Event()
        monitors = [monitor_of(settings, db, cluster, name) for name in ("first", "second")]
        running = [asyncio.create_task(one.run(stop)) for one in monitors]
        first, second = monitors
        await eventually(lambda: shares(monitors) == [8, 8] and healthy(monitors) == NODES)
        theirs = sorted(second._parts.actor.known)  # type: ignore[union-attr]
        died = kill(second, running[1])
        for node in theirs[:FAULTY]:
            break_node(node)
        await eventually(lambda: all(heard(first, node) > died for node in theirs))
        took = time.time() - died
        await eventually(lambda: len(cluster.cordons) >= FAULTY)
        last = time.time() - died
        stop.set()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(db.close)
    double = sum(count > 1 for count in cluster.cordons.values())
    report("takeover", took, f"s until all {len(theirs)} nodes are scraped again", "<= 10", took <= 2 * POLL_SECONDS)
    once = double == 0 and sorted(cluster.cordons) == sorted(theirs[:FAULTY])
    report("takeover-cordons", last, f"s until {FAULTY} are cordoned; {double} twice", "each once", once)


def monitor_of(settings: GpuHealthSettings, db: Database, cluster: FakeCluster, name: str) -> Monitor:
    clock = SystemClock()
    rules, measures = RulesSource.open(None), Measures(Metrics("gpuhealth"))
    return Monitor(settings, db, clock, cluster, NodeRecords(db, clock), rules, measures, name)


def kill(monitor: Monitor, running: asyncio.Task[None]) -> float:
    """As kill -9 would: nothing is given back."""
    assert monitor._parts is not None
    monitor._parts.leases.owned = {}
    monitor._parts.leases.holder = "gone"
    running.cancel()
    return time.time()


def shares(monitors: list[Monitor]) -> list[int]:
    return [len(one._parts.leases.owned) if one._parts else 0 for one in monitors]


def healthy(monitors: list[Monitor]) -> int:
    known: list[Any] = [list(one._parts.actor.known.values()) for one in monitors if one._parts]
    return sum(one.record.state is HealthState.HEALTHY for records in known for one in records)


def heard(monitor: Monitor, node: str) -> float:
    assert monitor._parts is not None
    return (monitor._parts.actor.owns(node) and monitor._parts.engine.heard(node)) or 0.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("bench-gpuhealth: a fault never fired")
        time.sleep(0.01)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 (the state of monitors)
            await asyncio.sleep(0.01)
