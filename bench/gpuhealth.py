"""Benchmarks of GPU health: reading pages, watching a large cluster, verdicts, a burst of cordons, failures.

`make bench-gpuhealth` prints one JSON object a line and at last how many targets were met. The exporters of the large
cluster are one process that sends real pages; the service's monitor is another, with a cluster in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from longhaul_core.clock import SystemClock
from longhaul_core.cluster import Node, NodePatch
from longhaul_core.cluster.fake import FakeCluster
from longhaul_core.db import Database
from longhaul_core.logging import configure_logging
from longhaul_core.metrics import Metrics
from longhaul_gpuhealth.adapters.records import NodeRecords, RecordChange, StoredNode
from longhaul_gpuhealth.adapters.rules_source import RulesSource
from longhaul_gpuhealth.domain.exposition import PageReader
from longhaul_gpuhealth.domain.model import HealthState
from longhaul_gpuhealth.domain.reading import GpuReading, Reading
from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import NodeScenario, Scenario
from longhaul_gpuhealth.monitor.measures import Measures
from longhaul_gpuhealth.monitor.monitor import Monitor
from longhaul_gpuhealth.settings import GpuHealthSettings
from prometheus_client.parser import text_string_to_metric_families

ROUNDS = 5
NODES, GPUS, INTERVAL_SECONDS = 1000, 8, 5.0
FAULTY = 200
BURST, API_LATENCY_SECONDS = 150, 0.02
NVSENTINEL_LAST_CORDON_SECONDS = 31.8
GAUGE_LINE = b'DCGM_FI_DEV_XID_ERRORS{gpu="0"'
results: list[bool] = []


def report(
    bench: str,
    ours: float,
    unit: str,
    target: str,
    met: bool,
    peer: float | None = None,
    peer_name: str = "",
    parts: dict[str, float] | None = None,
) -> None:
    ratio = None if peer is None else round(peer / ours, 3)
    row: dict[str, Any] = {"bench": bench, "ours": round(ours, 6), "peer": peer, "peer_name": peer_name, "unit": unit}
    split = {} if parts is None else {"seconds": parts}
    print(json.dumps({**row, "ratio": ratio, "target": target, "met": met, **split}), flush=True)
    results.append(met)


def page_of(gpus: int = GPUS) -> str:
    return Fleet(Scenario(nodes={"n0": NodeScenario(gpus=gpus)})).page("n0", 100.0)


def bench_parsing() -> None:
    """The whole page, all values, alternating; both see another page each time, ours after the first of the layout."""
    fleet = Fleet(Scenario(nodes={"n0": NodeScenario(gpus=GPUS)}))
    pages = [fleet.page("n0", 100.0 + second) for second in range(ROUNDS + 1)]
    reader = PageReader()
    reader.read(pages[0])
    ours, peer = [], []
    for page in pages[1:]:
        began = time.process_time()
        mine = [value for _, value in reader.read(page)]
        ours.append(time.process_time() - began)
        began = time.process_time()
        theirs = [sample.value for family in text_string_to_metric_families(page) for sample in family.samples]
        peer.append(time.process_time() - began)
        if mine != theirs:
            raise SystemExit("bench-gpuhealth: the two parsers disagree")
    a, b = statistics.median(ours), statistics.median(peer)
    report("parse-page", a * 1e3, "ms/page of 8 GPUs", "ratio >= 15", b / a >= 15, b * 1e3, "prometheus_client")


class ExporterProtocol(asyncio.Protocol):
    """HTTP/1.1 with kept connections, as little as possible: it must not be what is measured."""

    pages: ClassVar[dict[bytes, bytes]] = {}
    faulty: ClassVar[dict[bytes, float]] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        node = data.split(b" ", 2)[1].rpartition(b"/")[2]
        body = self.pages[node]
        if self.faulty.get(node) == 0.0:
            self.faulty[node] = time.time()
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
        )
        self.transport.write(head % len(body) + body)


async def serve(port: int) -> None:
    """All exporters. A line `NODE CODE` of the input makes a node's first GPU show an XID; its end is theirs."""
    template = page_of().encode()
    ExporterProtocol.pages = {b"n%d" % i: template.replace(b'"n0"', b'"n%d"' % i) for i in range(NODES)}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(ExporterProtocol, "127.0.0.1", port)
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        node, code = line.split()
        page = ExporterProtocol.pages[node]
        place = page.index(b"\n", page.index(GAUGE_LINE))
        ExporterProtocol.pages[node] = page[: page.rindex(b" ", 0, place) + 1] + code + page[place:]
        ExporterProtocol.faulty[node] = 0.0
    print(json.dumps({node.decode(): at for node, at in ExporterProtocol.faulty.items()}), flush=True)
    server.close()


@dataclass(slots=True)
class SlowCluster(FakeCluster):
    """An API that answers each call after 20 ms."""

    cordoned: dict[str, float] = field(default_factory=dict)

    async def get_node(self, name: str) -> Node:
        await asyncio.sleep(API_LATENCY_SECONDS)
        return await FakeCluster.get_node(self, name)

    async def patch_node(self, name: str, patch: NodePatch, *, expected_version: str | None = None) -> Node:
        await asyncio.sleep(API_LATENCY_SECONDS)
        node = await FakeCluster.patch_node(self, name, patch, expected_version=expected_version)
        if node.unschedulable:
            self.cordoned.setdefault(name, time.monotonic())
        return node


@dataclass(frozen=True, slots=True)
class TimedRecords(NodeRecords):
    """Notes when a verdict was stored."""

    seen: dict[str, float] = field(default_factory=dict)

    async def change_many(self, changes: Sequence[RecordChange]) -> list[StoredNode | Exception]:
        outcomes = await NodeRecords.change_many(self, changes)
        for one in outcomes:
            if isinstance(one, StoredNode) and one.record.state is HealthState.SUSPECT:
                self.seen.setdefault(one.record.node, time.time())
        return outcomes


@contextlib.asynccontextmanager
async def monitoring(cluster: FakeCluster, root: Path, **changes: Any) -> Any:
    settings = GpuHealthSettings(data_dir=root, scrape_interval_seconds=INTERVAL_SECONDS, **changes)
    db = await asyncio.to_thread(Database.open, settings.resolved_database_url)
    records = TimedRecords(db, SystemClock())
    measures = Measures(Metrics("gpuhealth"))
    monitor = Monitor(settings, db, SystemClock(), cluster, records, RulesSource.open(None), measures, "bench")
    stop = asyncio.Event()
    running = asyncio.create_task(monitor.run(stop))
    yield monitor, records
    stop.set()
    await running
    await asyncio.to_thread(db.close)


async def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (the state of another process)
            await asyncio.sleep(0.005)


async def watch(port: int, seconds: float) -> None:
    """The monitor over all exporters; prints what it cost. A line on the input begins the measurement."""
    cluster = FakeCluster(SystemClock())
    for index in range(NODES):
        cluster.add_node(f"n{index}", gpus=GPUS, exporter_url=f"http://127.0.0.1:{port}/n{index}")
    with tempfile.TemporaryDirectory() as root:
        async with monitoring(cluster, Path(root)) as (monitor, records):
            await eventually(lambda: monitor._parts is not None)
            healthy = lambda: all(  # noqa: E731
                (known := monitor._parts.actor.known.get(f"n{index}")) and known.record.state is HealthState.HEALTHY
                for index in range(NODES)
            )
            await eventually(healthy, 240)
            await asyncio.sleep(2 * INTERVAL_SECONDS)  # until every node keeps its phase
            print("watching", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            before = resource.getrusage(resource.RUSAGE_SELF)
            scraped = monitor.measures.scrapes.labels("ok")._value.get()
            began = time.monotonic()
            await asyncio.sleep(seconds)
            after, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(
                json.dumps(
                    {
                        "core_share": cpu / wall,
                        "peak_megabytes": after.ru_maxrss / 1024,
                        "scrapes": monitor.measures.scrapes.labels("ok")._value.get() - scraped,
                        "seen": records.seen,
                        "wall": wall,
                    }
                ),
                flush=True,
            )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def child(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise SystemExit("bench-gpuhealth: a part of the benchmark ended early")
    return line.decode().strip()


async def bench_cluster(seconds: float) -> None:
    """1,000 nodes of 8 GPUs every 5 s; while they are watched, some show a fault each."""
    port = free_port()
    exporters = await child("--serve", str(port))
    await said(exporters)
    watcher = await child("--watch", str(port), "--seconds", str(seconds))
    assert exporters.stdin is not None
    assert watcher.stdin is not None
    await said(watcher)
    watcher.stdin.write(b"\n")
    for index in range(FAULTY):
        await asyncio.sleep((seconds - 2 * INTERVAL_SECONDS) / FAULTY)
        exporters.stdin.write(b"n%d 13\n" % (index * NODES // FAULTY))
    measured = json.loads(await said(watcher))
    exporters.stdin.close()
    sent = json.loads(await said(exporters))
    await watcher.wait()
    await exporters.wait()
    latencies = sorted(measured["seen"][node] - at for node, at in sent.items())
    if len(latencies) < FAULTY:
        raise SystemExit(f"bench-gpuhealth: {FAULTY - len(latencies)} faults were not seen")
    expected = NODES * measured["wall"] / INTERVAL_SECONDS
    complete = measured["scrapes"] >= 0.98 * expected
    share, memory = measured["core_share"], measured["peak_megabytes"]
    report("cluster-core-share", share, "of one core", "<= 0.6, no scrape missed", share <= 0.6 and complete)
    report("cluster-memory", memory, "MB peak", "<= 500", memory <= 500)
    p99 = latencies[int(0.99 * len(latencies))]
    report("sample-to-verdict-p50", statistics.median(latencies), "s", "<= 1", statistics.median(latencies) <= 1)
    report("sample-to-verdict-p99", p99, "s", "<= 1", p99 <= 1)


async def burst() -> list[float]:
    """150 nodes show a fatal fault in one moment; seconds until each is cordoned, in order."""
    cluster = SlowCluster(SystemClock())
    for index in range(NODES):
        cluster.add_node(f"n{index}", gpus=GPUS)
    with tempfile.TemporaryDirectory() as root:
        async with monitoring(cluster, Path(root)) as (monitor, _):
            await eventually(lambda: monitor._parts is not None and len(monitor._parts.actor.known) == NODES)
            known = monitor._parts.actor.known
            show(monitor, 0.0)
            await eventually(
                lambda: all(known[f"n{index}"].record.state is HealthState.HEALTHY for index in range(BURST))
            )
            began = time.monotonic()
            show(monitor, 79.0)
            await eventually(lambda: len(cluster.cordoned) == BURST)
            return sorted(at - began for at in cluster.cordoned.values())


async def bench_replica_death() -> None:
    """See `bench_takeover`; the exporters are those of the large cluster."""
    from gpuhealth_failures import bench_takeover  # not in the processes whose memory is measured

    port = free_port()
    exporters = await child("--serve", str(port))
    await said(exporters)
    stdin = exporters.stdin
    assert stdin is not None
    await bench_takeover(report, port, lambda node: stdin.write(f"{node} 79\n".encode()))
    stdin.close()
    await exporters.wait()


def show(monitor: Monitor, xid: float) -> None:
    """Readings of the nodes of the burst, all in one moment."""
    parts = monitor._parts
    assert parts is not None
    for index in range(BURST):
        gpu = GpuReading("GPU", "NVIDIA H100", {"DCGM_FI_DEV_XID_ERRORS": xid})
        parts.intake.take(Reading(f"n{index}", parts.time.now(), {0: gpu}))


async def bench_burst() -> None:
    """Three bursts."""
    rounds = [await burst() for _ in range(3)]
    every = sorted(took for one in rounds for took in one)
    p99 = every[int(0.99 * len(every))]
    peer, name = NVSENTINEL_LAST_CORDON_SECONDS, "NVSentinel, published: last of 150"
    report("burst-150-cordon-p99", p99, "s", "<= 5", p99 <= 5, peer, name)
    last = [one[-1] for one in rounds]
    report("burst-150-last-cordon", statistics.median(last), "s", "<= 5", max(last) <= 5, peer, name)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=int)
    parser.add_argument("--watch", type=int)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=("parse", "cluster", "burst", "takeover", "drains"))
    parsed = parser.parse_args(arguments)
    configure_logging("bench", "error", "json")
    task: Awaitable[None] | None = None
    if parsed.serve:
        task = serve(parsed.serve)
    elif parsed.watch:
        task = watch(parsed.watch, parsed.seconds)
    if task is not None:
        asyncio.run(task)  # type: ignore[arg-type]
        return 0
    gc.collect()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if parsed.only in (None, "parse"):
        bench_parsing()
    if parsed.only in (None, "cluster"):
        asyncio.run(bench_cluster(parsed.seconds))
    if parsed.only in (None, "burst"):
        asyncio.run(bench_burst())
    if parsed.only in (None, "takeover"):
        asyncio.run(bench_replica_death())
    if parsed.only in (None, "drains"):
        from gpuhealth_failures import bench_drains

        bench_drains(report)
    print(f"bench-gpuhealth: {sum(results)} of {len(results)} targets met")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
