"""What each service costs at 10, 100 and 1,000 nodes: processor, memory, growth of its database.

`make bench-sizing` prints one JSON object a line. Nodes of 8 GPUs are played: exporters send real pages every 5 s,
agents of one run on all nodes (one rank each) hold real streams with a heartbeat a second. What a service costs at rest
is measured on the service alone; what a checkpoint takes in the database, on 1,000 that are begun.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import control
import gpuhealth
import grpc
import psutil
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul.training.v1 import training_run_pb2, training_run_pb2_grpc
from longhaul_core.clock import SystemClock
from longhaul_core.cluster.fake import FakeCluster
from longhaul_core.logging import configure_logging
from longhaul_core.rpc.client import connect
from longhaul_gpuhealth.domain.model import HealthState

SIZES = (10, 100, 1000)
SECONDS = 30.0
CHECKPOINTS = 1000
AT_REST = ("ingest", "corpus", "checkpoint", "evaluation")
DAY_SECONDS = 86400


def report(bench: str, **figures: float) -> None:
    """One line; there is nothing to compare with."""
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"bench": f"sizing/{bench}", **rounded}), flush=True)


def stored_bytes(folder: Path) -> int:
    """Bytes of the pages in use of all SQLite files below a folder, the log of writes taken in."""
    total = 0
    for path in folder.rglob("*.sqlite3"):
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
            size, pages, free = (
                database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_size", "page_count", "freelist_count")
            )
            total += size * (pages - free)
    return total


async def measure_training(nodes: int) -> None:
    """One run on all nodes: agents joined and stepping, heartbeats a second."""
    control.AGENTS = nodes
    with control.service(nodes, 1, 0.0) as process:
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(process.address))
                for _ in range(control.CHANNELS)
            ]
            runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channels[0])
            await control._create(runs, "many", nodes)
            name = training_run_pb2.GetTrainingRunRequest(name="projects/default/trainingRuns/many")
            uid = (await runs.GetTrainingRun(name)).metadata.uid
            identity = await control._identity(process.database)
            await asyncio.sleep(5.0)
            fleet = [control.PlayedAgent(channels[n % len(channels)], identity, uid, n) for n in range(nodes)]
            tasks = [asyncio.create_task(agent.run()) for agent in fleet]
            await control._until_state(runs, name, training_run_pb2.TRAINING_RUN_STATE_RUNNING)
            await asyncio.sleep(5.0)
            folder = process.database.parent
            cpu, size, started = process.cpu_seconds(), stored_bytes(folder), time.monotonic()
            await asyncio.sleep(SECONDS)
            elapsed = time.monotonic() - started
            report(
                f"training/{nodes}",
                cores=(process.cpu_seconds() - cpu) / elapsed,
                memory_mb=process.resident_bytes() / 1e6,
                database_mb=stored_bytes(folder) / 1e6,
                database_mb_a_day=(stored_bytes(folder) - size) / 1e6 * DAY_SECONDS / elapsed,
            )
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def measure_gpuhealth(nodes: int) -> None:
    """All nodes scraped by one replica; the exporters are another process."""
    port = gpuhealth.free_port()
    command = [sys.executable, __file__, "--nodes", str(nodes), "--port", str(port)]
    exporters = await asyncio.create_subprocess_exec(
        *command, "--serve", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    await gpuhealth.said(exporters)
    watcher = await asyncio.create_subprocess_exec(*command, "--watch")
    await watcher.wait()
    assert exporters.stdin is not None
    exporters.stdin.close()
    await exporters.wait()


async def watch(nodes: int, port: int) -> None:
    """The monitor in a process of its own."""
    cluster = FakeCluster(SystemClock())
    for index in range(nodes):
        cluster.add_node(f"n{index}", gpus=8, exporter_url=f"http://127.0.0.1:{port}/n{index}")
    with tempfile.TemporaryDirectory() as root:
        async with gpuhealth.monitoring(cluster, Path(root)) as (monitor, _):
            await gpuhealth.eventually(lambda: monitor._parts is not None)

            def healthy() -> bool:
                known = monitor._parts.actor.known
                return all(
                    (one := known.get(f"n{index}")) and one.record.state is HealthState.HEALTHY
                    for index in range(nodes)
                )

            await gpuhealth.eventually(healthy, 240)
            await asyncio.sleep(2 * gpuhealth.INTERVAL_SECONDS)
            before, size, began = resource.getrusage(resource.RUSAGE_SELF), stored_bytes(Path(root)), time.monotonic()
            await asyncio.sleep(SECONDS)
            after, elapsed = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            report(
                f"gpuhealth/{nodes}",
                cores=cpu / elapsed,
                memory_mb=after.ru_maxrss / 1024,
                database_mb=stored_bytes(Path(root)) / 1e6,
                database_mb_a_day=(stored_bytes(Path(root)) - size) / 1e6 * DAY_SECONDS / elapsed,
            )


@contextlib.contextmanager
def at_rest(service: str, folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A service alone, with one worker where it has any."""
    address = f"127.0.0.1:{gpuhealth.free_port()}"
    settings = {"LISTEN_ADDRESS": address, "METRICS_ADDRESS": "", "DATA_DIR": str(folder), "LOG_LEVEL": "error"}
    environment = {**os.environ, **{f"LONGHAUL_{key}": value for key, value in settings.items()}}
    started = subprocess.Popen(
        [sys.executable, "-m", f"longhaul_{service}"], env={**environment, "LONGHAUL_WORKERS": "1"}
    )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield psutil.Process(started.pid), address
    finally:
        started.terminate()
        started.wait()


def _cost(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds and resident bytes of a process and its children."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family), sum(one.memory_info().rss for one in family)


def measure_rest(service: str) -> None:
    """What it costs when nothing is asked of it."""
    with tempfile.TemporaryDirectory() as folder, at_rest(service, Path(folder)) as (process, address):
        time.sleep(5.0)
        before, _ = _cost(process)
        time.sleep(SECONDS)
        after, memory = _cost(process)
        report(f"{service}/at rest", cores=(after - before) / SECONDS, memory_mb=memory / 1e6)
        if service == "checkpoint":
            asyncio.run(_measure_checkpoints(address, Path(folder)))


async def _measure_checkpoints(address: str, folder: Path) -> None:
    """What the database keeps of a checkpoint."""
    size = stored_bytes(folder)
    async with connect(address) as channel:
        store: Any = checkpoint_pb2_grpc.CheckpointServiceStub(channel)
        for number in range(CHECKPOINTS):
            run = f"projects/default/trainingRuns/sizing-{number % 10}"
            begin = checkpoint_pb2.BeginCheckpointRequest(training_run=run, step=number + 1, epoch=1, world_size=8)
            await store.BeginCheckpoint(begin)
    report("checkpoint/database", kilobytes_a_checkpoint=(stored_bytes(folder) - size) / CHECKPOINTS / 1e3)


async def run(sizes: Sequence[int]) -> None:
    """The services whose cost is in the nodes."""
    for nodes in sizes:
        await measure_training(nodes)
        await measure_gpuhealth(nodes)


def main() -> None:
    """Measure, or play a part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--port", type=int, default=0, help="of the exporters (used by the benchmark itself)")
    parser.add_argument("--serve", action="store_true", help="be the exporters")
    parser.add_argument("--watch", action="store_true", help="be the monitor")
    given = parser.parse_args()
    if given.serve:
        gpuhealth.NODES = given.nodes[0]
        asyncio.run(gpuhealth.serve(given.port))
    elif given.watch:
        configure_logging("bench", "error", "console")
        asyncio.run(watch(given.nodes[0], given.port))
    else:
        for service in AT_REST:
            measure_rest(service)
        asyncio.run(run(given.nodes))


if __name__ == "__main__":
    main()
