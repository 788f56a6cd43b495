"""Runs that begin with something: a checkpoint of another run, a model of Hugging Face, a later stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import open_store
from longhaul_trainer.model import DecoderShape
from longhaul_trainer.model.huggingface import huggingface_config, to_huggingface
from longhaul_trainer.wire import Event
from safetensors.torch import load, save_file
from trainer_harness import World, finish, start_workers


def fork_of(world: World, step: int, **more: Any) -> dict[str, Any]:
    key = world.checkpoints.manifests[step]
    digest = read_manifest(open_store(world.url), key).digest
    name = world.checkpoints.committed[step].name
    return {"checkpoint": name, "manifest_key": key, "manifest_digest": digest, **more}


def run(world: World, epoch: int, ranks: int = 1, **sections: Any) -> list[tuple[int, float]]:
    workers = start_workers(world, ranks, epoch=epoch, trainer_config=world.config(**sections))
    return [(row.step, row.loss) for row in finish(workers)]


def test_fork_with_another_optimizer_goes_on_from_the_step_and_records_its_parent(world: World) -> None:
    whole = dict(run(world, 1))
    start = fork_of(world, 8)
    same = run(world, 2, start=start)
    assert same == [(step, whole[step]) for step in range(9, 13)]
    workers = start_workers(world, 1, epoch=3, trainer_config=world.config(start=start, optimizer={"kind": "muon"}))
    swapped = [(row.step, row.loss) for row in finish(workers)]
    assert [step for step, _ in swapped] == [9, 10, 11, 12]
    assert swapped[0][1] == whole[9]
    assert swapped[1][1] != whole[10]
    (told,) = [m for m in workers[0].messages if isinstance(m, Event) and m.kind == "STARTED_FROM"]
    assert "start anew" in told.message
    assert world.checkpoints.committed[12].parent == start["checkpoint"]


def test_checkpoint_that_is_not_the_one_meant_is_refused(world: World) -> None:
    run(world, 1)
    start = fork_of(world, 8, manifest_digest="0" * 64)
    workers = start_workers(world, 1, epoch=2, trainer_config=world.config(start=start))
    assert workers[0].wait() == 65


def test_model_of_hugging_face_is_continued_as_the_same_weights(world: World, tmp_path: Path) -> None:
    ranks = 2
    run(world, 1)
    store = open_store(world.url)
    parts = [part.key for part in read_manifest(store, world.checkpoints.manifests[12]).parts]
    state = json.loads(store.get(next(key for key in parts if key.endswith("trainer_state.json"))))
    shape = DecoderShape.from_document(state["shape"])
    weights = load(store.get(next(key for key in parts if "/model-" in key)))
    exported = {name: tensor.contiguous() for name, tensor in to_huggingface(weights, shape).items()}
    save_file(exported, tmp_path / "model.safetensors")
    config = huggingface_config(shape, eos_id=0, dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights_only = fork_of(world, 12, keep_progress=False, keep_optimizer=False)
    wanted = run(world, 2, ranks, start=weights_only)
    assert run(world, 3, ranks, start={"huggingface": str(tmp_path)}) == wanted
    assert wanted[0][1] < 3.9

    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    broken = world.config(start={"huggingface": str(tmp_path)})
    workers = start_workers(world, 1, epoch=4, trainer_config=broken)
    assert workers[0].wait() == 64
    assert "layers is 3 there, 2 in the recipe" in workers[0].messages[-1].message  # type: ignore[union-attr]


def test_batch_ramp_and_longer_context_go_on_bit_for_bit(world: World) -> None:
    sections: dict[str, Any] = {
        "steps": 14,
        "checkpoint": {"every_steps": 3},
        "validation": {"every_steps": 0},
        "data": {
            "batch_ramp": [{"until_step": 4, "global_batch_size": 4}],
            "context_stages": [{"after_step": 8, "sequence_length": 64, "global_batch_size": 4, "rope_theta": 1e6}],
        },
    }
    whole = run(world, 1, 2, **sections)
    assert [step for step, _ in whole] == list(range(1, 15))
    for step in (3, 9):
        resumed = start_workers(
            world,
            2,
            epoch=2 + step,
            trainer_config=world.config(**sections),
            resume_manifest_key=world.checkpoints.manifests[step],
            resume_checkpoint=world.checkpoints.committed[step].name,
        )
        assert [(row.step, row.loss) for row in finish(resumed)] == whole[step:]
    assert torch.isfinite(torch.tensor([loss for _, loss in whole])).all()
