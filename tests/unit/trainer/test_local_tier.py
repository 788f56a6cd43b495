from __future__ import annotations

from pathlib import Path

from longhaul_core.digests import hash_bytes
from longhaul_core.manifests import Part
from longhaul_core.objects import open_store
from longhaul_trainer.checkpoint.local_tier import LocalTier, open_near_tier
from longhaul_trainer.checkpoint.restore import read_part


def keep(tier: LocalTier, step: int) -> tuple[Part, bytes]:
    data = bytes([step]) * 100
    part = Part(key=f"step-{step}/model", size=100, digest=hash_bytes(data))
    tier.keep(f"step-{step:08d}-e1", part, memoryview(data))
    return part, data


def test_part_is_read_from_the_near_tier_without_the_store(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path / "near")
    part, data = keep(tier, 1)
    assert read_part(open_store(f"file://{tmp_path / 'store'}"), part, tier) == data


def test_damaged_part_of_the_near_tier_is_dropped_and_read_from_the_store(tmp_path: Path) -> None:
    tier, store = LocalTier(tmp_path / "near"), open_store(f"file://{tmp_path / 'store'}")
    part, data = keep(tier, 1)
    store.put(part.key, data)
    (path,) = (tmp_path / "near").glob("*/*")
    path.write_bytes(b"x" * 100)
    assert read_part(store, part, tier) == data
    assert not path.exists()


def test_near_tier_keeps_the_two_newest_checkpoints_only(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path / "near")
    parts = [keep(tier, step)[0] for step in (1, 2, 3)]
    assert [tier.find(part) is not None for part in parts] == [False, True, True]


def test_store_on_this_disk_has_no_near_tier(tmp_path: Path) -> None:
    assert open_near_tier(f"file://{tmp_path}", tmp_path, 0) is None
    assert open_near_tier("s3://bucket/prefix", tmp_path, 0) is not None
