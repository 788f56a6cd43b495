"""Benchmarks of the gRPC core: unary calls, Watch streams, rolling restarts.

`make bench-services` prints one JSON object a line and at last how many targets were met. Calls a second are calls by
CPU second of the server process, all its threads together: what one core can do, whatever else runs on the machine. The
peer is a bare grpcio echo (asyncio, no interceptors, bytes in and out), called by the same client in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul_core.rpc.client import connect

ROUNDS = 3
CALLERS = 32
ECHO = "/bench.Echo/Call"
WATCHES = 1000
WATCH_LIMIT_BYTES = 300e6
RESTARTS = 10
START_SECONDS = 60.0

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Server:
    """A server process on loopback."""

    process: asyncio.subprocess.Process
    address: str

    def cpu_seconds(self) -> float:
        """CPU time of all its threads."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        """Memory of the process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


async def echo_server(address: str) -> None:
    """Serve the peer: nothing but grpcio."""

    async def answer(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Call": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


@contextlib.asynccontextmanager
async def running(arguments: list[str], address: str, environment: dict[str, str]) -> AsyncIterator[Server]:
    """Run a server process until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={**os.environ, **environment}, stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            async with asyncio.timeout(START_SECONDS):
                await channel.channel_ready()
        yield Server(process, address)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


@contextlib.asynccontextmanager
async def service(folder: Path, address: str, *, delay_seconds: float = 0.0) -> AsyncIterator[Server]:
    """Run a replica of the checkpoint service on a folder."""
    environment = {
        "LONGHAUL_LISTEN_ADDRESS": address,
        "LONGHAUL_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "LONGHAUL_DATA_DIR": str(folder),
        "LONGHAUL_DRAIN_DELAY_SECONDS": str(delay_seconds),
        "LONGHAUL_LOG_LEVEL": "warning",
    }
    async with running(["-m", "longhaul_checkpoint"], address, environment) as server:
        yield server


async def calls_a_cpu_second(server: Server, call: Call, count: int) -> float:
    """Make calls from several callers at once and divide by what the server spent, its background loops included."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    before = server.cpu_seconds()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count / (server.cpu_seconds() - before)


async def bench_unary(folder: Path, calls: int) -> list[dict[str, Any]]:
    """Compare each class of method with the echo, alternating."""
    peer_address, address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with (
        running([__file__, "--echo", peer_address], peer_address, {}) as peer,
        service(folder, address) as ours,
        grpc.aio.insecure_channel(peer_address) as peer_channel,
        connect(address) as channel,
    ):
        methods = await _methods(channel)
        echo = peer_channel.unary_unary(ECHO)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
        for name, (call, _) in methods.items():  # Create last: what it leaves behind keeps background loops busy
            for _ in range(ROUNDS):
                peer_rate = await calls_a_cpu_second(peer, lambda: echo(b"x" * 64), calls)
                found[name].append((await calls_a_cpu_second(ours, call, calls), peer_rate))
    lines = []
    for name, (_, target) in methods.items():
        mine, theirs = (statistics.median(column) for column in zip(*found[name], strict=True))
        lines.append(line(f"services/unary/{name}", mine, theirs, "bare grpcio echo", "calls/CPU s", target))
    return lines


async def _methods(channel: grpc.aio.Channel) -> dict[str, tuple[Call, float]]:
    health = health_pb2_grpc.HealthStub(channel)
    store: Any = checkpoint_pb2_grpc.CheckpointServiceStub(channel)
    check = health_pb2.HealthCheckRequest()
    name = (await store.BeginCheckpoint(begin(1))).metadata.name
    get = checkpoint_pb2.GetCheckpointRequest(name=name)
    numbers = itertools.count(2)
    return {
        "no-database": (lambda: health.Check(check), 0.7),
        "get": (lambda: store.GetCheckpoint(get), 0.35),
        "create": (lambda: store.BeginCheckpoint(begin(next(numbers))), 0.1),
    }


async def bench_watches(folder: Path) -> dict[str, Any]:
    """Open streams on one replica and look at its memory."""
    address = f"127.0.0.1:{free_port()}"
    async with service(folder, address) as server, connect(address) as channel:
        store: Any = checkpoint_pb2_grpc.CheckpointServiceStub(channel)
        await store.BeginCheckpoint(begin(1))
        request = checkpoint_pb2.WatchCheckpointsRequest(parent="projects/default")
        streams = [store.WatchCheckpoints(request) for _ in range(WATCHES)]
        first = await asyncio.gather(*(anext(aiter(stream)) for stream in streams))
        assert len(first) == WATCHES
        size = server.resident_bytes()
        for stream in streams:
            stream.cancel()
    return {
        "bench": f"services/{WATCHES} watch streams", "ours": round(size / 1e6, 1), "peer": None, "peer_name": None,
        "unit": "MB resident", "ratio": None, "target": f"<= {WATCH_LIMIT_BYTES / 1e6:.0f}",
        "met": size <= WATCH_LIMIT_BYTES,
    }  # fmt: skip


async def bench_restarts(folder: Path, rounds: int) -> dict[str, Any]:
    """Two replicas under load, restarted in turn: how many calls fail?"""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    target = "ipv4:" + ",".join(addresses)
    failed = made = 0
    done = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        replicas = [await _enter(stack, folder, address) for address in addresses]
        channel = await stack.enter_async_context(connect(target))
        store: Any = checkpoint_pb2_grpc.CheckpointServiceStub(channel)
        numbers = itertools.count(1)

        async def caller() -> None:
            nonlocal failed, made
            while not done.is_set():
                try:
                    begun = await store.BeginCheckpoint(begin(next(numbers)))
                    await store.GetCheckpoint(checkpoint_pb2.GetCheckpointRequest(name=begun.metadata.name))
                except grpc.RpcError as error:
                    failed += 1
                    print(f"failed: {error}", file=sys.stderr)
                made += 2

        callers = [asyncio.create_task(caller()) for _ in range(3)]
        for number in range(rounds):
            index = number % 2
            await replicas[index].aclose()
            replicas[index] = await _enter(stack, folder, addresses[index])
        done.set()
        await asyncio.gather(*callers)
    return {
        "bench": f"services/rolling restart, {rounds} rounds", "ours": failed, "peer": None, "peer_name": None,
        "unit": "failed calls", "ratio": None, "target": "0", "met": failed == 0 and made > 100, "calls": made,
    }  # fmt: skip


async def _enter(stack: contextlib.AsyncExitStack, folder: Path, address: str) -> contextlib.AsyncExitStack:
    own = contextlib.AsyncExitStack()
    stack.push_async_callback(own.aclose)
    await own.enter_async_context(service(folder, address, delay_seconds=1.0))
    return own


def begin(number: int) -> checkpoint_pb2.BeginCheckpointRequest:
    """Ask for the first checkpoint of a run of its own, since many that were begun and never committed are no life."""
    run = f"projects/default/trainingRuns/bench-{number}"
    return checkpoint_pb2.BeginCheckpointRequest(training_run=run, step=1, epoch=1, world_size=1)


def line(bench: str, ours: float, peer: float, peer_name: str, unit: str, target: float) -> dict[str, Any]:
    """One comparison as JSON."""
    ratio = ours / peer
    return {
        "bench": bench, "ours": round(ours, 1), "peer": round(peer, 1), "peer_name": peer_name, "unit": unit,
        "ratio": round(ratio, 3), "target": f">= {target}", "met": ratio >= target,
    }  # fmt: skip


def free_port() -> int:
    """A free TCP port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def run(only: str, calls: int, rounds: int) -> int:
    """Run what was asked for and print it; returns how many targets were missed."""
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="longhaul-bench-") as scratch:
        if only in ("", "unary"):
            lines += await bench_unary(Path(scratch) / "unary", calls)
        if only in ("", "watch"):
            lines.append(await bench_watches(Path(scratch) / "watch"))
        if only in ("", "restart"):
            lines.append(await bench_restarts(Path(scratch) / "restart", rounds))
    for one in lines:
        print(json.dumps(one))
    met = sum(one["met"] for one in lines)
    print(f"bench-services: {met} of {len(lines)} targets met")
    return len(lines) - met


def main() -> None:
    """Run the benchmarks, or serve the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--echo", metavar="ADDRESS", help="serve the bare echo (used by the benchmark itself)")
    parser.add_argument("--only", default="", choices=("", "unary", "watch", "restart"))
    parser.add_argument("--calls", type=int, default=3000, help="calls a round and method")
    parser.add_argument("--rounds", type=int, default=RESTARTS, help="restarts")
    given = parser.parse_args()
    if given.echo:
        asyncio.run(echo_server(given.echo))
        return
    started = time.monotonic()
    asyncio.run(run(given.only, given.calls, given.rounds))
    print(f"bench-services: {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
