from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from longhaul_core.manifests import Manifest, put_part, write_manifest
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.recipe import OptimizerConfig, TrainerConfig
from longhaul_trainer.checkpoint.catalogue import Found
from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.slices import model_slices, optimizer_slices
from longhaul_trainer.checkpoint.trainer_state import TRAINER_STATE_FILE, Lineage, RandomState, TrainerState
from longhaul_trainer.loop.stops import AttemptFailed
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.group import RankGroup
from longhaul_trainer.wire import Assignment, Phase
from longhaul_trainer.worker.restoration import Restoration
from torch import nn

NAME, KEY = "projects/lab/checkpoints/run-step-00000004-e1", "run/step-4/manifest.json"


class Catalogue:
    """One checkpoint; notes what is reported."""

    def __init__(self) -> None:
        self.reported: list[str] = []

    def latest(self, maximum_step: int) -> Found:
        return Found(NAME, KEY)

    def report_damage(self, name: str) -> None:
        self.reported.append(name)


class Reporter:
    """Notes events."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def phase(self, phase: Phase, step: int, own_seconds: float = 0.0) -> None: ...

    def event(self, kind: str, cause: str, message: str, data: Mapping[str, str | float]) -> None:
        self.kinds.append(kind)


def state() -> TrainerState:
    lineage = Lineage(
        config_digest="c",
        token_set="t",
        token_set_digest="d",
        tokenizer_key="",
        tokenizer_digest="",
        eos_id=0,
        code_version="v",
        torch_version="2",
        world_size=1,
        threads_per_worker=1,
        device="cpu",
    )
    return TrainerState(
        step=4,
        sample_cursor=32,
        tokens=256,
        epoch=1,
        random=RandomState(seed=0),
        source_epochs={},
        lineage=lineage,
        shape={},
        config=TrainerConfig(),
    )


def save(store: ObjectStore, model: nn.Module, update: Update) -> Manifest:
    parts = [put_part(store, f"run/step-4/{TRAINER_STATE_FILE}", state().model_dump_json().encode())]
    for kind, held in (("model-", model_slices(model)), ("optim-", optimizer_slices(model, update))):
        image = PartImage(f"{kind}00000-of-00001.safetensors", held)
        image.fill()
        parts.append(put_part(store, f"run/step-4/{image.name}", image.data))
    manifest = Manifest(kind="Checkpoint", name=NAME, uid="c", created=datetime(2026, 1, 1, tzinfo=UTC), parts=parts)
    write_manifest(store, KEY, manifest)
    return manifest


@pytest.mark.parametrize("damaged", [False, True])
def test_rewind_takes_an_intact_checkpoint_and_ends_the_attempt_on_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    store, model = open_store(f"file://{tmp_path}"), nn.Linear(7, 5)
    update = Update(model, OptimizerConfig())
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    manifest = save(store, model, update)
    if damaged:
        key = next(part.key for part in manifest.parts if "optim-" in part.key)
        store.put(key, store.get(key)[:-1] + b"?")
    nn.init.ones_(model.weight)
    assignment = Assignment(
        project="lab",
        run="run",
        epoch=1,
        rank=0,
        local_rank=0,
        world_size=1,
        rendezvous="",
        listens=False,
        trainer_config={},
        token_set_manifest_key="",
        object_store_url=f"file://{tmp_path}",
        checkpoint_address="",
        scratch_dir=str(tmp_path),
    )
    catalogue, reporter = Catalogue(), Reporter()
    restoration = Restoration(assignment, store, RankGroup(0, 1, torch.device("cpu")), model, update, reporter)  # type: ignore[arg-type]
    monkeypatch.setattr(restoration, "catalogue", lambda: catalogue)
    if damaged:
        with pytest.raises(AttemptFailed) as raised:
            restoration.go_back(4)
        assert raised.value.reason == "PART_DIGEST_DIFFERS"
        assert (catalogue.reported, reporter.kinds) == ([NAME], ["CHECKPOINT_DAMAGED"])
        return
    earlier = restoration.go_back(4)
    assert earlier is not None
    assert earlier.step == 4
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert catalogue.reported == []
