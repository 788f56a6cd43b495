"""One pretend node: `python -m longhaul_core.cluster.local.node --cluster-dir D --name node-0 --gpus 1`.

The process owns the pods that are bound to it, answers on a loopback port that only readers of the folder can use, and
stops them on SIGTERM. Killed in any way, it takes its pods along; started again, it keeps its marks and reports those
pods as lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longhaul_core.clock import Clock, SystemClock
from longhaul_core.cluster.local.layout import Layout
from longhaul_core.cluster.local.pods import NodePods
from longhaul_core.cluster.local.records import Endpoint
from longhaul_core.cluster.local.server import NodeServer
from longhaul_core.cluster.local.store import Store
from longhaul_core.errors import FailedPrecondition, InvalidArgument, LonghaulError
from longhaul_core.logging import configure_logging, get_logger

SWEEP_SECONDS = 1.0
SHUTDOWN_GRACE_SECONDS = 5.0
EXIT_REFUSED = 64

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Command line of a node process."""

    cluster_dir: Path
    name: str
    gpus: int
    exporter_url: str
    labels: dict[str, str]
    log_level: str
    log_format: Literal["json", "console"]


def parse_arguments(arguments: Sequence[str]) -> NodeSettings:
    """Read the command line. Raises `InvalidArgument`."""
    parser = argparse.ArgumentParser(
        prog="python -m longhaul_core.cluster.local.node", description="Run one node of a local cluster."
    )
    parser.add_argument("--cluster-dir", type=Path, required=True, help="folder of the cluster")
    parser.add_argument("--name", required=True, help="name of the node")
    parser.add_argument("--gpus", type=int, default=1, help="how many GPUs the node pretends to have")
    parser.add_argument("--exporter-url", default="", help="where the metrics of its GPUs are read")
    parser.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="label of the node; may be repeated"
    )
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default="json", choices=("json", "console"))
    parsed = parser.parse_args(arguments)
    labels: dict[str, str] = {}
    for text in parsed.label:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidArgument(
                f"--label {text!r} is not KEY=VALUE", violations=[("label", f"{text!r} is not KEY=VALUE")]
            )
        labels[key] = value
    if parsed.gpus < 0:
        raise InvalidArgument(f"--gpus {parsed.gpus} is negative", violations=[("gpus", f"{parsed.gpus} is negative")])
    return NodeSettings(
        cluster_dir=parsed.cluster_dir.resolve(),
        name=parsed.name,
        gpus=parsed.gpus,
        exporter_url=parsed.exporter_url,
        labels=labels,
        log_level=parsed.log_level,
        log_format=parsed.log_format,
    )


@contextlib.contextmanager
def sole_process(store: Store, name: str) -> Iterator[None]:
    """Hold the node's process lock. Raises `FailedPrecondition` when another process does."""
    path = store.layout.node(name)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (path / "process.lock").open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"node {name} runs already in {store.layout.root}",
                reason="NODE_RUNS_ALREADY",
                metadata={"node": name},
                action="stop the running node process first, or choose another name",
            ) from None
        yield


async def run_node(settings: NodeSettings, clock: Clock) -> None:
    """Serve until SIGTERM or SIGINT, then end the pods."""
    store = Store(Layout(settings.cluster_dir))
    store.prepare()
    with sole_process(store, settings.name):
        store.register_node(
            settings.name, gpus=settings.gpus, labels=settings.labels, exporter_url=settings.exporter_url
        )
        server = NodeServer(settings.name, secrets.token_hex(16))
        pods = NodePods(settings.name, settings.gpus, store, clock, server.pod_changed)
        pods.prune_logs()
        pods.recover()
        port = await server.start(pods)
        store.write_endpoint(settings.name, Endpoint(port, server.token, os.getpid()))
        log.info("node started", node=settings.name, gpus=settings.gpus, port=port)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await _sweep_until(stop, pods)
        finally:
            await pods.shut_down(SHUTDOWN_GRACE_SECONDS)
            await server.close()
            store.layout.endpoint(settings.name).unlink(missing_ok=True)
            log.info("node stopped", node=settings.name)


async def _sweep_until(stop: asyncio.Event, pods: NodePods) -> None:
    while not stop.is_set():
        await pods.sweep()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SWEEP_SECONDS)


def main(arguments: Sequence[str]) -> int:
    """Run the node; returns the exit code."""
    try:
        settings = parse_arguments(arguments)
        configure_logging("node", settings.log_level, settings.log_format)
        asyncio.run(run_node(settings, SystemClock()))
    except LonghaulError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
