"""All implementations of the cluster seam behind one handle, so that each contract test runs on each of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import DEFAULT_NAMESPACE, Cluster, FakeCluster, LocalCluster, PodSpec
from longhaul_core.cluster.local.launch import running_nodes, start_node, stop_node

sys.path.insert(0, str(Path(__file__).parents[2] / "cluster"))

from fakekube import FakeKubernetes
from handle import KubernetesHandle

DEADLINE_SECONDS = 120.0


class Handle(Protocol):
    """A cluster, and the powers over it that only a test has."""

    cluster: Cluster

    def another_client(self) -> Cluster: ...
    async def add_node(self, name: str, *, gpus: int = 1, labels: Mapping[str, str] | None = None) -> None: ...
    async def kill_node(self, name: str) -> None: ...
    async def restart_node(self, name: str) -> None: ...
    def running(self, name: str, **fields: Any) -> PodSpec: ...
    async def finish(self, name: str, exit_code: int, namespace: str = DEFAULT_NAMESPACE) -> None: ...


class FakeHandle:
    def __init__(self) -> None:
        self.cluster = FakeCluster(SystemClock())

    def another_client(self) -> Cluster:
        return self.cluster

    async def add_node(self, name: str, *, gpus: int = 1, labels: Mapping[str, str] | None = None) -> None:
        self.cluster.add_node(name, gpus=gpus, labels=labels)

    async def kill_node(self, name: str) -> None:
        self.cluster.kill_node(name)

    async def restart_node(self, name: str) -> None:
        self.cluster.restart_node(name)

    def running(self, name: str, **fields: Any) -> PodSpec:
        return PodSpec(name=name, command=("run",), **fields)

    async def finish(self, name: str, exit_code: int, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.cluster.finish_pod(namespace, name, exit_code)


class LocalHandle:
    def __init__(self, root: Path) -> None:
        self.root = root / "cluster"
        self.signals = root / "signals"
        self.signals.mkdir()
        self.cluster = LocalCluster.open(self.root, SystemClock())
        self.clients = [self.cluster]
        self.gpus: dict[str, int] = {}

    def another_client(self) -> Cluster:
        client = LocalCluster.open(self.root, SystemClock())
        self.clients.append(client)
        return client

    async def add_node(self, name: str, *, gpus: int = 1, labels: Mapping[str, str] | None = None) -> None:
        self.gpus[name] = gpus
        await asyncio.to_thread(start_node, self.root, name, gpus=gpus, labels=labels)

    async def kill_node(self, name: str) -> None:
        pid = running_nodes(self.root)[name]
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)

    async def restart_node(self, name: str) -> None:
        await self.add_node(name, gpus=self.gpus[name])

    def running(self, name: str, **fields: Any) -> PodSpec:
        namespace = fields.get("namespace", DEFAULT_NAMESPACE)
        code = self.signals / f"{namespace}.{name}"
        command = f'while [ ! -s "{code}" ]; do sleep 0.02; done; exit $(cat "{code}")'
        return PodSpec(name=name, command=("sh", "-c", command), **fields)

    async def finish(self, name: str, exit_code: int, namespace: str = DEFAULT_NAMESPACE) -> None:
        (self.signals / f"{namespace}.{name}").write_text(str(exit_code))

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        await asyncio.gather(*(asyncio.to_thread(stop_node, self.root, name) for name in running_nodes(self.root)))


async def fake_handle(_: Path) -> AsyncIterator[Handle]:
    yield FakeHandle()


async def local_handle(folder: Path) -> AsyncIterator[Handle]:
    local = LocalHandle(folder)
    yield local
    await local.close()


async def kubernetes_handle(folder: Path) -> AsyncIterator[Handle]:
    server = FakeKubernetes()
    await server.start()
    handle = KubernetesHandle(server.write_kubeconfig(folder / "kubeconfig"), folder)
    await handle.prepare()
    yield handle
    await handle.close()
    await server.stop()


@pytest.fixture(params=[fake_handle, local_handle, kubernetes_handle])
async def handle(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Handle]:
    async for made in request.param(tmp_path):
        yield made


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await condition():  # noqa: ASYNC110 (any condition can be waited for)
                await asyncio.sleep(0.02)

    return wait
