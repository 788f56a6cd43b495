"""Tensors that did not change are written once: which parts a save names again, and which it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.errors import DataLoss, InvalidArgument
from longhaul_core.manifests import Part
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.checkpoint.catalogue import Commit, Reservation
from longhaul_trainer.checkpoint.local_tier import LocalTier
from longhaul_trainer.checkpoint.part_set import PartSet
from longhaul_trainer.checkpoint.receipts import Receipts
from longhaul_trainer.checkpoint.restore import MODEL_PART, restore_slices
from longhaul_trainer.checkpoint.saver import Saved, Saver, Stored
from longhaul_trainer.checkpoint.slices import TensorSlice
from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.model.initialise import initialise
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.sharding import freeze
from torch.distributed import HashStore

from tests.unit.trainer.test_checkpoint import manifest_of, trainer_state

MOVING, STILL = "model-00000-of-00001.safetensors", "model-still-00000-of-00001.safetensors"


class Catalogue:
    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.refuse: Exception | None = None

    def begin(self, step: int, epoch: int, world_size: int) -> Reservation:
        return Reservation(f"c{step}", f"projects/lab/checkpoints/run/step-{step:08d}-e1/")

    def commit(self, commit: Commit) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.commits.append(commit)


class Listener:
    def __init__(self) -> None:
        self.failed: list[Exception] = []

    def checkpoint_committed(self, saved: Saved) -> None: ...

    def checkpoint_delayed(self, step: int, error: Exception) -> None: ...

    def checkpoint_failed(self, step: int, error: Exception) -> None:
        self.failed.append(error)


class Rank:
    """One rank with a tensor that moves and one that does not."""

    def __init__(self, store: ObjectStore, frozen: Sequence[str] = (), **options: Any) -> None:
        self.moves, self.stands = torch.zeros(50, 8), torch.randn(60, 8)
        self.slices = [
            TensorSlice("moves", self.moves, (50, 8), (0, 0)),
            TensorSlice("stands", self.stands, (60, 8), (0, 0)),
        ]
        self.sets = [PartSet(MODEL_PART, self.slices, rank=0, ranks=1, frozen=frozen)]
        self.catalogue, self.listener = Catalogue(), Listener()
        self.saver = Saver(
            self.sets, store, Receipts(HashStore()), self.listener, rank=0, ranks=1, catalogue=self.catalogue, **options
        )

    def save(self, step: int) -> dict[str, str]:
        """Folder of each part of the checkpoint by file name; empty where it was refused."""
        self.moves += 1
        self.saver.start(trainer_state(step))
        if not self.saver.finish(30):
            return {}
        parts = [part.key.split("/") for part in self.catalogue.commits[-1].parts]
        return {parts[-1]: parts[-2] for parts in parts if parts[-1].endswith(".safetensors")}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path / 'objects'}")


def test_frozen_tensor_is_written_with_the_first_save_only(store: ObjectStore) -> None:
    rank = Rank(store, frozen=["stands"])
    for step in (4, 8, 12):
        assert rank.save(step) == {MOVING: f"step-{step:08d}-e1", STILL: "step-00000004-e1"}
    manifest = manifest_of(rank.catalogue.commits[-1].parts)
    targets = [TensorSlice(s.name, torch.full_like(s.local, -1), s.shape, s.offsets) for s in rank.slices]
    restore_slices(store, manifest, MODEL_PART, targets)
    assert torch.equal(targets[0].local, rank.moves)
    assert torch.equal(targets[1].local, rank.stands)


def test_tensor_that_stands_still_is_found_and_written_once_more(store: ObjectStore) -> None:
    rank = Rank(store)
    assert rank.save(4) == {MOVING: "step-00000004-e1"}
    assert rank.save(8) == {MOVING: "step-00000008-e1"}
    assert rank.save(12) == {MOVING: "step-00000012-e1", STILL: "step-00000012-e1"}
    assert rank.save(16) == {MOVING: "step-00000016-e1", STILL: "step-00000012-e1"}
    rank.stands[30, 3] += 1
    assert rank.save(20) == {MOVING: "step-00000020-e1", STILL: "step-00000020-e1"}
    targets = [TensorSlice(s.name, torch.zeros_like(s.local), s.shape, s.offsets) for s in rank.slices]
    restore_slices(store, manifest_of(rank.catalogue.commits[-1].parts), MODEL_PART, targets)
    assert torch.equal(targets[1].local, rank.stands)


def test_only_committed_checkpoints_lend_and_a_refused_commit_writes_everything_again(store: ObjectStore) -> None:
    rank = Rank(store, frozen=["stands"])
    rank.catalogue.refuse = DataLoss("gone", reason="PART_MISSING")
    assert rank.save(4) == {}
    rank.catalogue.refuse = None
    assert rank.save(8)[STILL] == "step-00000008-e1"
    rank.catalogue.refuse = DataLoss("damaged", reason="PART_DAMAGED")
    assert rank.save(12) == {}
    rank.catalogue.refuse = None
    assert rank.save(16)[STILL] == "step-00000016-e1"
    assert len(rank.listener.failed) == 2


def test_restored_checkpoint_lends_to_the_first_save(store: ObjectStore) -> None:
    before = Rank(store, frozen=["stands"])
    before.save(4)
    stored = Stored.of(4, before.catalogue.commits[-1].parts)
    after = Rank(store, frozen=["stands"], stored=stored)
    after.stands.copy_(before.stands)
    assert after.save(8)[STILL] == "step-00000004-e1"
    after.stands += 1
    assert after.save(12)[STILL] == "step-00000012-e1"


def test_near_tier_keeps_a_shared_part_as_long_as_it_is_named(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path)
    data = b"stands still"
    part = Part(key="p/c1/still", size=len(data), digest=hash_bytes(data))
    tier.keep("step-00000001-e1", part, memoryview(data))
    for step in range(2, 6):
        tier.carry(f"step-{step:08d}-e1", part)
        other = str(step).encode()
        moved = Part(key=f"p/c{step}/m", size=len(other), digest=hash_bytes(other))
        tier.keep(f"step-{step:08d}-e1", moved, memoryview(other))
    found = tier.find(part)
    assert found is not None
    assert found.path.read_bytes() == data
    assert len(list(tmp_path.iterdir())) == 2


def model_with(frozen: list[str]) -> tuple[Decoder, TrainerConfig]:
    config = TrainerConfig.model_validate(
        {
            "model": {"hidden_size": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_size": 16},
            "data": {"sequence_length": 8},
            "optimizer": {"frozen": frozen},
        }
    )
    shape = DecoderShape.resolve(config, 32)
    model = Decoder(shape)
    freeze(model, shape, config.optimizer.frozen)
    initialise(model, 0, shape)
    return model, config


def test_frozen_parameters_are_not_moved_and_have_no_moments() -> None:
    model, config = model_with(["embed_tokens.*", "layers.0.*"])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    update = Update(model, config.optimizer)
    model(torch.arange(8)[None], torch.arange(8)[None]).square().sum().backward()
    update.step(0.1)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if not name.startswith(("embed_tokens", "layers.0."))}
    assert len(update.state) == len(moved)


@pytest.mark.parametrize(("frozen", "problem"), [(["layer.0.*"], "no parameter matches 'layer.0"), (["*"], "nothing")])
def test_frozen_patterns_that_can_not_be_meant_are_refused(frozen: list[str], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        model_with(frozen)
