from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.manifests import Manifest, Part, put_part
from longhaul_core.net import split_address
from longhaul_core.objects import ObjectStore, open_store
from longhaul_trainer.agent.keeper import PartKeeper
from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.peer_tier import Peer, PeerTier
from longhaul_trainer.checkpoint.restore import MODEL_PART, restore_slices
from longhaul_trainer.checkpoint.slices import TensorSlice
from longhaul_trainer.peer_wire import NONCE_BYTES, PROOF_BYTES, Look, send

LENT = 10_000


@pytest.fixture
def keeper() -> Iterator[PartKeeper]:
    found = PartKeeper("127.0.0.1", LENT)
    yield found
    found.close()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path / 'objects'}")


def peer(keeper: PartKeeper, node: str = "far", secret: str = "") -> Peer:
    return Peer(node, keeper.address, secret or keeper.secret)


def tier(*others: Peer) -> PeerTier:
    """As rank 0 has it, on a node whose own agent lends nothing."""
    return PeerTier([Peer("own", "", ""), *others], 0)


def bytes_part(fill: int, size: int = 4000) -> tuple[Part, memoryview]:
    data = bytes([fill]) * size
    return Part(key=f"p/{fill}", size=size, digest=hash_bytes(data)), memoryview(data)


def checkpoint(store: ObjectStore) -> tuple[Manifest, bytes, TensorSlice]:
    image = PartImage("model-00000-of-00001.safetensors", [TensorSlice("w", torch.ones(50, 3), (50, 3), (0, 0))])
    image.fill()
    part = put_part(store, f"step-1/{image.name}", image.data)
    manifest = Manifest(kind="Checkpoint", name="c", uid="c", created=datetime(2026, 1, 1, tzinfo=UTC), parts=[part])
    return manifest, bytes(image.data), TensorSlice("w", torch.zeros(50, 3), (50, 3), (0, 0))


def test_part_comes_back_from_the_peer_without_the_store(keeper: PartKeeper, store: ObjectStore) -> None:
    manifest, data, target = checkpoint(store)
    assert tier(peer(keeper)).keep(manifest.parts[0], memoryview(data))
    store.delete(manifest.parts[0].key)
    read = restore_slices(store, manifest, MODEL_PART, [target], near=[tier(peer(keeper))])
    assert read == {"peer": len(data)}
    assert torch.equal(target.local, torch.ones(50, 3))


def test_copy_damaged_in_the_peers_memory_is_read_from_the_store(keeper: PartKeeper, store: ObjectStore) -> None:
    manifest, data, target = checkpoint(store)
    near = tier(peer(keeper))
    keeper.memory.hold(manifest.parts[0].digest, data[:-1] + b"x")
    assert restore_slices(store, manifest, MODEL_PART, [target], near=[near]) == {"store": len(data)}
    assert torch.equal(target.local, torch.ones(50, 3))
    assert near.find(manifest.parts[0]) is None


def test_memory_is_bounded_and_the_part_used_longest_ago_gives_way(keeper: PartKeeper) -> None:
    near = tier(peer(keeper))
    parts = [bytes_part(fill) for fill in range(3)]
    assert all(near.keep(*part) for part in (parts[0], parts[1], parts[0], parts[2]))
    assert [near.find(part) is not None for part, _ in parts] == [True, False, True]
    assert keeper.memory.held <= LENT
    assert not near.keep(*bytes_part(9, LENT + 1))
    assert keeper.memory.held == 8000


def test_part_that_the_peer_has_is_not_sent_again(keeper: PartKeeper) -> None:
    part, data = bytes_part(1)
    assert tier(peer(keeper)).keep(part, data)
    assert tier(peer(keeper)).keep(part, memoryview(b""))


def test_peer_without_the_secret_is_turned_away(keeper: PartKeeper) -> None:
    part, data = bytes_part(1)
    keeper.memory.hold(part.digest, bytes(data))
    stranger = tier(peer(keeper, secret="guessed"))
    assert stranger.find(part) is None
    assert not stranger.keep(*bytes_part(2))
    with socket.create_connection(split_address(keeper.address), 10) as connection:
        connection.settimeout(10)
        connection.recv(NONCE_BYTES)
        connection.sendall(bytes(PROOF_BYTES))
        send(connection, Look(digest=part.digest))
        assert connection.recv(100) == b""


def test_peer_that_is_gone_is_asked_once_and_loses_nothing(keeper: PartKeeper, store: ObjectStore) -> None:
    manifest, data, target = checkpoint(store)
    gone = PartKeeper("127.0.0.1", LENT)
    gone.close()
    near = tier(peer(gone, "gone"), peer(keeper))
    assert not near.keep(manifest.parts[0], memoryview(data))
    keeper.memory.hold(manifest.parts[0].digest, data)
    assert restore_slices(store, manifest, MODEL_PART, [target], near=[near]) == {"peer": len(data)}


def test_parts_go_to_the_next_rank_on_another_node(keeper: PartKeeper) -> None:
    same, next_one = PartKeeper("127.0.0.1", LENT), PartKeeper("127.0.0.1", LENT)
    peers = [peer(keeper, "a"), peer(same, "b"), peer(same, "b"), peer(next_one, "c")]
    part, data = bytes_part(1)
    assert PeerTier(peers, 1).keep(part, data)
    assert [one.memory.held for one in (keeper, same, next_one)] == [0, 0, 4000]
    assert PeerTier(peers, 3).keep(part, data)
    assert [one.memory.held for one in (keeper, same, next_one)] == [4000, 0, 4000]
    same.close()
    next_one.close()


def test_run_on_one_node_keeps_no_copies(keeper: PartKeeper) -> None:
    assert not PeerTier([peer(keeper, "a"), peer(keeper, "a")], 0).keep(*bytes_part(1))
    assert keeper.memory.held == 0
