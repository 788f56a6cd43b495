"""A cluster client against a Kubernetes API in memory, over HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "cluster"))

from fakekube import FakeKubernetes
from handle import KubernetesHandle

DEADLINE_SECONDS = 90.0


@pytest.fixture
async def server() -> AsyncIterator[FakeKubernetes]:
    fake = FakeKubernetes()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def handle(server: FakeKubernetes, tmp_path: Path) -> AsyncIterator[KubernetesHandle]:
    """Two played nodes of 8 GPUs are there: `n0` and `n1`."""
    made = KubernetesHandle(server.write_kubeconfig(tmp_path / "kubeconfig"), tmp_path)
    await made.prepare()
    await made.add_node("n0", gpus=8)
    await made.add_node("n1", gpus=8)
    yield made
    for cluster in made.clusters:
        await cluster.close()
    await made.player.transport.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await condition():  # noqa: ASYNC110 (any condition can be waited for)
                await asyncio.sleep(0.02)

    return wait
