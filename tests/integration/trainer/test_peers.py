from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import open_store
from longhaul_trainer.agent.keeper import PartKeeper
from longhaul_trainer.wire import Event
from trainer_harness import World, finish, start_workers

LENT = 1 << 24


@pytest.fixture
def keepers() -> Iterator[list[PartKeeper]]:
    found = [PartKeeper("127.0.0.1", LENT) for _ in range(3)]
    yield found
    for keeper in found:
        keeper.close()


def on_nodes(keepers: list[PartKeeper], *nodes: int) -> list[dict[str, Any]]:
    """What ranks on these nodes are told."""
    told = [("keeper_address", "address"), ("keeper_secret", "secret")]
    return [{"node": f"n{n}", **{field: getattr(keepers[n], name) for field, name in told}} for n in nodes]


def test_rank_of_a_lost_node_is_restored_from_the_memory_of_another_node(
    world: World, keepers: list[PartKeeper]
) -> None:
    config = world.config(steps=8, checkpoint={"peer_memory_bytes": LENT})
    first = finish(start_workers(world, 2, by_rank=on_nodes(keepers, 0, 1), trainer_config=config))
    store, key = open_store(world.url), world.checkpoints.manifests[4]
    parts = [part for part in read_manifest(store, key).parts if part.key.endswith(".safetensors")]
    lost = [part for part in parts if "00001-of" in part.key]
    assert len(lost) == len(parts) // 2 == 2
    keepers[1].close()
    for part in lost:
        store.delete(part.key)
    again = start_workers(
        world,
        2,
        by_rank=on_nodes(keepers, 0, 2),
        trainer_config=config,
        epoch=2,
        resume_manifest_key=key,
        resume_checkpoint=world.checkpoints.committed[4].name,
    )
    rows = finish(again)
    assert [(row.step, row.loss) for row in rows] == [(row.step, row.loss) for row in first if row.step > 4]
    (restored,) = [event for event in again[0].messages if isinstance(event, Event) and event.kind == "RESTORED"]
    assert restored.data["bytes_peer"] == sum(part.size for part in lost)
    assert restored.data["bytes_store"] == sum(part.size for part in parts if part not in lost)
