from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.manifests import Manifest, Part
from longhaul_core.objects import open_store
from longhaul_trainer.checkpoint.local_tier import LocalTier, open_near_tier
from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.restore import MODEL_PART, restore_slices
from longhaul_trainer.checkpoint.slices import TensorSlice


def keep(tier: LocalTier, step: int) -> tuple[Manifest, bytes, TensorSlice]:
    """A checkpoint of one part that only the tier has; with its bytes, and a tensor to load it into."""
    values = torch.full((5, 3), float(step))
    image = PartImage("model-00000-of-00001.safetensors", [TensorSlice("w", values, (5, 3), (0, 0))])
    image.fill()
    data = bytes(image.data)
    part = Part(key=f"step-{step}/{image.name}", size=len(data), digest=hash_bytes(data))
    tier.keep(f"step-{step:08d}-e1", part, memoryview(data))
    manifest = Manifest(kind="Checkpoint", name="c", uid="c", created=datetime(2026, 1, 1, tzinfo=UTC), parts=[part])
    return manifest, data, TensorSlice("w", torch.zeros(5, 3), (5, 3), (0, 0))


def test_part_is_read_from_the_near_tier_without_the_store(tmp_path: Path) -> None:
    tier, store = LocalTier(tmp_path / "near"), open_store(f"file://{tmp_path / 'store'}")
    manifest, data, target = keep(tier, 1)
    assert restore_slices(store, manifest, MODEL_PART, [target], near=[tier]) == {"disk": len(data)}
    assert torch.equal(target.local, torch.ones(5, 3))


def test_damaged_part_of_the_near_tier_is_dropped_and_read_from_the_store(tmp_path: Path) -> None:
    tier, store = LocalTier(tmp_path / "near"), open_store(f"file://{tmp_path / 'store'}")
    manifest, data, target = keep(tier, 1)
    store.put(manifest.parts[0].key, data)
    (path,) = (tmp_path / "near").glob("*/*")
    path.write_bytes(data[:-1] + b"x")
    assert restore_slices(store, manifest, MODEL_PART, [target], near=[tier]) == {"store": len(data)}
    assert torch.equal(target.local, torch.ones(5, 3))
    assert not path.exists()


def test_near_tier_keeps_the_two_newest_checkpoints_only(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path / "near")
    parts = [keep(tier, step)[0].parts[0] for step in (1, 2, 3)]
    assert [tier.find(part) is not None for part in parts] == [False, True, True]


def test_store_on_this_disk_has_no_near_tier(tmp_path: Path) -> None:
    assert open_near_tier(f"file://{tmp_path}", tmp_path, 0) is None
    assert open_near_tier("s3://bucket/prefix", tmp_path, 0) is not None
