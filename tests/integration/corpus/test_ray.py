"""Work on a Ray cluster of several local nodes, one of which dies in the middle: the same output, bit for bit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from longhaul_core.engine import Engine, LocalEngine, WorkerDied
from longhaul_core.engine.ray_engine import RayEngine
from ray.cluster_utils import Cluster

from tests.integration.corpus.ray_tasks import sign_and_wait
from tests.unit.corpus.texts import library_texts

SHARDS = 6


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    ray.shutdown()  # a cluster that other tests of this session have joined
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20})
    for _ in range(2):
        nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


async def run(engine: Engine, folder: Path, died: list[int], kill: Any = None) -> dict[int, bytes]:
    """Work off all shards; a shard whose worker died is worked on again, as the services' queues do."""

    async def one(number: int) -> tuple[int, bytes]:
        payload = {"texts": library_texts()[number * 10 : number * 10 + 10], "go": str(folder / "go"), "number": number}
        while True:
            try:
                answer = await engine.submit(sign_and_wait, payload, on_progress=lambda seen: kill and kill(seen))
            except WorkerDied:
                died.append(number)
                continue
            return number, answer["bands"]

    return dict(await asyncio.gather(*(one(number) for number in range(SHARDS))))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_node_of_a_ray_cluster_that_dies_in_the_middle_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "go").touch()
    local = LocalEngine(1)
    expected = await run(local, tmp_path / "local", [])
    await local.close()
    engine = await asyncio.to_thread(RayEngine.connect, cluster.address, import_path=[str(Path(__file__).parents[3])])
    assert engine.capacity == 2
    started: set[str] = set()
    died: list[int] = []
    removed = asyncio.Event()

    def kill(seen: dict[str, Any]) -> None:
        """Once both nodes work on a shard, remove one of them, then let the tasks go on."""
        started.add(seen["node"])
        if len(started) == 2 and not removed.is_set():
            removed.set()
            victim = next(node for node in cluster.worker_nodes if node.node_id == seen["node"])
            cluster.remove_node(victim, allow_graceful=False)
            with suppress(ProcessLookupError):  # nothing of a dead node lives on, not even for a moment
                os.kill(seen["process"], signal.SIGKILL)
            (tmp_path / "go").touch()

    found = await run(engine, tmp_path, died, kill)
    await engine.close()

    assert removed.is_set()
    assert died
    assert found == expected
    assert all(np.frombuffer(bands, dtype=np.uint64).any() for bands in found.values())
