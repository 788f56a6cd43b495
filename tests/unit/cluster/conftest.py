"""A local cluster with real node processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from longhaul_core.clock import SystemClock
from longhaul_core.cluster import LocalCluster
from longhaul_core.cluster.local.launch import running_nodes, stop_node

DEADLINE_SECONDS = 120.0


@pytest.fixture
def cluster_dir(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "cluster"
    yield root
    for name in running_nodes(root):
        stop_node(root, name)


@pytest.fixture
async def cluster(cluster_dir: Path) -> AsyncIterator[LocalCluster]:
    client = LocalCluster.open(cluster_dir, SystemClock())
    yield client
    await client.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await condition():  # noqa: ASYNC110 (any condition can be waited for)
                await asyncio.sleep(0.02)

    return wait
