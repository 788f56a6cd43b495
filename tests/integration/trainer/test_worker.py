from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from longhaul.training.v1 import agent_pb2
from longhaul_core.manifests import read_manifest, verify_part
from longhaul_core.metric_journal import journal_prefix
from longhaul_core.objects import open_store
from longhaul_trainer.checkpoint.points import SavePoint
from longhaul_trainer.wire import Event, Request, StepRow
from safetensors.torch import load
from trainer_harness import PROJECT, RUN, WorkerProcess, World, finish, start_workers


def events(worker: WorkerProcess, kind: str) -> list[Event]:
    return [message for message in worker.messages if isinstance(message, Event) and message.kind == kind]


def read_state(world: World, manifest_key: str) -> dict[str, Any]:
    store = open_store(world.url)
    parts = read_manifest(store, manifest_key).parts
    document: dict[str, Any] = json.loads(store.get(next(p.key for p in parts if p.key.endswith("trainer_state.json"))))
    return document


def losses(rows: list[StepRow]) -> dict[int, float]:
    return {row.step: row.loss for row in rows}


def resume(world: World, step: int, **changes: Any) -> dict[str, Any]:
    request = world.checkpoints.committed[step]
    return {
        "epoch": 2,
        "resume_manifest_key": world.checkpoints.manifests[step],
        "resume_checkpoint": request.name,
        **changes,
    }


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_repeated_and_resumed_has_the_same_bits_on_one_and_two_ranks(world: World, ranks: int) -> None:
    first = finish(start_workers(world, ranks))
    assert [row.step for row in first] == list(range(1, 13))
    assert first[-1].loss < first[0].loss - 0.5
    assert [row.step for row in first if row.validation_loss is not None] == [4, 8, 12]
    assert sorted(world.checkpoints.committed) == [4, 8, 12]
    resumed = finish(start_workers(world, ranks, **resume(world, 4)))
    wanted = [(row.step, row.loss, row.gradient_norm, row.validation_loss) for row in first if row.step > 4]
    assert [(row.step, row.loss, row.gradient_norm, row.validation_loss) for row in resumed] == wanted


TENSOR, PIPELINE = {"tensor_parallel": 2}, {"pipeline_parallel": 2}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, {}), (2, {})),
        ((2, {}), (1, {})),
        ((2, {}), (2, TENSOR)),
        ((2, TENSOR), (2, PIPELINE)),
        ((2, PIPELINE), (4, TENSOR)),
    ],
)
def test_run_resumed_in_another_layout_continues_within_round_off(
    world: World, before: tuple[int, dict[str, int]], after: tuple[int, dict[str, int]]
) -> None:
    first, second = (world.config(layout=layout) for _, layout in (before, after))
    whole = losses(finish(start_workers(world, before[0], trainer_config=first)))
    resumed = losses(finish(start_workers(world, after[0], **resume(world, 8, trainer_config=second))))
    assert sorted(resumed) == [9, 10, 11, 12]
    for step, loss in resumed.items():
        assert loss == pytest.approx(whole[step], rel=1e-5)


def test_checkpoint_holds_safetensors_of_every_rank_and_a_readable_state(world: World) -> None:
    finish(start_workers(world, 2))
    store = open_store(world.url)
    manifest = read_manifest(store, world.checkpoints.manifests[8])
    files = {part.key.rsplit("/", 1)[-1]: part.key for part in manifest.parts}
    assert sorted(files) == [
        "environment.json",
        "model-00000-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "optim-00000-of-00002.safetensors",
        "optim-00001-of-00002.safetensors",
        "trainer_state.json",
    ]
    shards = [load(store.get(files[f"model-{rank:05d}-of-00002.safetensors"])) for rank in range(2)]
    assert [shard["embed_tokens.weight"].shape for shard in shards] == [(32, 32), (32, 32)]
    state = json.loads(store.get(files["trainer_state.json"]))
    assert state["step"] == 8
    assert state["sample_cursor"] == 64
    assert state["tokens"] == 64 * 32
    assert state["lineage"]["world_size"] == 2
    assert set(state["source_epochs"]) == {"docs", "code"}
    commit = world.checkpoints.committed[8]
    assert commit.tokens == 64 * 32
    assert commit.metrics["validation_loss"] > 0


def explosive(world: World, **anomalies: Any) -> dict[str, Any]:
    """A run whose learning rate grows a million-fold after step 24."""
    stages = [{"end_step": 24, "ratio": 1.0}, {"end_step": 25, "ratio": 1e6}]
    return world.config(
        steps=80,
        schedule={"kind": "multi_stage", "stages": stages},
        checkpoint={"every_steps": 5},
        validation={"every_steps": 0},
        anomalies={"minimum_samples": 8, "patience": 3, "rewind_steps": 10, "skip_batches": 6, **anomalies},
    )


def test_persistent_spike_is_rewound_then_slowed_then_left_to_a_human(world: World) -> None:
    workers = start_workers(world, 2, trainer_config=explosive(world))
    rows = finish(workers, code=81)
    assert events(workers[0], "UPDATE_SKIPPED")
    first, second = events(workers[0], "REWOUND")
    assert first.cause == second.cause == "PERSISTENT_SPIKE"
    assert "learning rate × 1" in first.message
    assert "learning rate × 0.5" in second.message
    assert events(workers[0], "ANOMALY")
    assert all(np.isfinite(row.loss) for row in rows if row.learning_rate)
    for step, manifest_key in world.checkpoints.manifests.items():
        state = read_state(world, manifest_key)
        assert state["anomalies"]["left_out"] == 0
        assert state["step"] + state["rewound_steps"] == step


def test_run_killed_right_after_a_rewind_goes_on_as_the_unbroken_one(world: World) -> None:
    workers = start_workers(world, 2, trainer_config=explosive(world))
    rows = finish(workers, code=81)
    states = {step: read_state(world, key) for step, key in world.checkpoints.manifests.items()}
    position = min(step for step, state in states.items() if state["anomalies"]["rewinds"])
    rewound = states[position]
    (rewind,) = rewound["anomalies"]["rewinds"]
    assert rewound["step"] == rewind["step"]
    assert rewound["sample_cursor"] == rewind["skipped_to"] >= rewind["skipped_from"] + 6 * 8
    assert all(later.position > row.position for row, later in pairwise(rows))
    written = sorted(info.key for info in open_store(world.url).list(journal_prefix(PROJECT, RUN)))
    kept = [
        (row.step, row.position)
        for key in written
        for row in agent_pb2.StepMetricsBatch.FromString(open_store(world.url).get(key)).rows
    ]
    assert kept == [(row.step, row.position) for row in rows if row.position <= max(states)]
    backwards = next(place for place, row in enumerate(rows[1:], 1) if row.step <= rows[place - 1].step)
    unbroken = [(row.step, row.loss) for row in rows[backwards:]]
    again = start_workers(world, 2, **resume(world, position), trainer_config=explosive(world))
    resumed = [(row.step, row.loss) for row in finish(again, code=81)]
    assert resumed == unbroken


def test_loss_that_is_not_finite_is_computed_again_left_out_and_never_checkpointed(world: World) -> None:
    config = world.config(
        steps=40,
        optimizer={"learning_rate": 1e30},
        checkpoint={"every_steps": 1},
        anomalies={"patience": 2, "rewind_steps": 2},
    )
    workers = start_workers(world, 2, trainer_config=config)
    finish(workers, code=81)
    assert any(event.cause == "NOT_FINITE" for event in events(workers[0], "UPDATE_SKIPPED"))
    for manifest_key in world.checkpoints.manifests.values():
        state = read_state(world, manifest_key)
        assert np.isfinite(state["loss"])
        assert state["anomalies"]["left_out"] == 0


def test_checkpoint_service_that_is_full_for_a_while_holds_up_checkpoints_but_not_training(world: World) -> None:
    world.checkpoints.refusals_left = 3
    workers = start_workers(world, 2)
    rows = finish(workers)
    assert [row.step for row in rows] == list(range(1, 13))
    assert len(events(workers[0], "CHECKPOINT_DELAYED")) == 1
    assert max(world.checkpoints.committed) == 12


def test_worker_of_an_epoch_that_was_fenced_off_ends_without_a_commit(world: World) -> None:
    world.checkpoints.minimum_epoch = 5
    workers = start_workers(world, 2, trainer_config=world.config(steps=200))
    codes = {worker.wait() for worker in workers}
    assert codes == {75}
    assert world.checkpoints.committed == {}


@pytest.mark.parametrize("part", ["model-00001", "optim-00000", "trainer_state"])
def test_damaged_checkpoint_is_refused_and_reported(world: World, part: str) -> None:
    finish(start_workers(world, 2, trainer_config=world.config(steps=4)))
    store = open_store(world.url)
    manifest = read_manifest(store, world.checkpoints.manifests[4])
    key = next(entry.key for entry in manifest.parts if part in entry.key)
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 16
    store.put(key, bytes(data))
    workers = start_workers(world, 2, **resume(world, 4))
    codes = [worker.wait() for worker in workers]
    assert set(codes) == {75}, "\n".join(worker.errors() for worker in workers)
    damaged = [event for worker in workers for event in events(worker, "CHECKPOINT_DAMAGED")]
    assert damaged
    assert all(key in event.message for event in damaged)
    assert world.checkpoints.verified[0] == world.checkpoints.committed[4].name


def test_requested_checkpoint_is_written_out_of_turn_and_stop_leaves_as_preempted(world: World) -> None:
    config = world.config(steps=900, checkpoint={"every_steps": 800})
    workers = start_workers(world, 2, trainer_config=config)
    workers[0].wait_row(2)
    workers[1].send(Request(stop_after=False))
    world.checkpoints.wait_step(2)
    workers[1].send(Request(stop_after=True))
    rows = finish(workers, code=82)
    assert max(world.checkpoints.committed) == rows[-1].step


@pytest.mark.parametrize(
    ("sections", "code", "words"),
    [
        ({"data": {"global_batch_size": 7}}, 64, "not a multiple"),
        ({"model": {"vocabulary_size": 10}}, 64, "64 token ids"),
        ({"data": {"sequence_length": 100_000}}, 65, "too few for one sequence"),
        ({"data": {"maximum_epochs": 0.001}}, 65, "epochs are allowed"),
        ({"data": {"mixture": {"poems": 1.0}}}, 64, "poems"),
    ],
)
def test_configuration_that_cannot_work_ends_with_a_clear_message(
    world: World, sections: dict[str, Any], code: int, words: str
) -> None:
    workers = start_workers(world, 2, trainer_config=world.config(**sections))
    for worker in workers:
        assert worker.wait() == code
        assert words in worker.messages[-1].message  # type: ignore[union-attr]


def test_worker_whose_peer_is_killed_ends_to_be_retried(world: World) -> None:
    workers = start_workers(world, 2, trainer_config=world.config(steps=900, checkpoint={"every_steps": 800}))
    workers[0].wait_row(2)
    workers[1].kill()
    assert workers[0].wait() == 75


@pytest.mark.parametrize("point", list(SavePoint))
def test_kill_in_the_middle_of_a_save_loses_no_commit_and_shows_nothing_half_written(
    world: World, point: SavePoint
) -> None:
    count = 4 if point is SavePoint.AFTER_FIRST_PART else 2  # model, optimizer and environment are parts
    workers = start_workers(world, 1, failpoints=f"{point}:{count}")
    assert workers[0].wait() == -9
    committed = sorted(world.checkpoints.committed)
    assert committed == ([4, 8] if point is SavePoint.AFTER_COMMIT else [4])
    store = open_store(world.url)
    for key in world.checkpoints.manifests.values():
        for part in read_manifest(store, key).parts:
            verify_part(store, part)
    rows = losses(finish(start_workers(world, 1, **resume(world, committed[-1]))))
    assert sorted(rows) == list(range(committed[-1] + 1, 13))
    assert sorted(world.checkpoints.committed) == [4, 8, 12]


def test_frozen_parameters_are_stored_once_and_a_resumed_run_goes_on_naming_them(world: World) -> None:
    frozen = {"optimizer": {"learning_rate": 0.01, "frozen": ["embed_tokens.*"]}}
    whole = finish(start_workers(world, 2, trainer_config=world.config(**frozen)))
    first = world.checkpoints.committed[4]
    resumed = world.config(**frozen)
    again = finish(
        start_workers(
            world,
            2,
            epoch=2,
            trainer_config=resumed,
            resume_manifest_key=world.checkpoints.manifests[8],
            resume_checkpoint=world.checkpoints.committed[8].name,
        )
    )
    assert [row.loss for row in again] == [row.loss for row in whole[8:]]
    for step, commit in world.checkpoints.committed.items():
        still = {part.key for part in commit.parts if "/model-still-" in part.key}
        assert still == {part.key for part in first.parts if "/model-still-" in part.key}, step
        assert len(still) == 2
        moments = [part for part in commit.parts if "/optim-" in part.key]
        assert not any("-still-" in part.key for part in moments)


def test_micro_batch_is_found_by_every_rank_and_kept_by_the_resumed_run(world: World) -> None:
    found = world.config(data={"micro_batch_size": 0})
    workers = start_workers(world, 2, trainer_config=found)
    rows = finish(workers)
    (event,) = events(workers[0], "MICRO_BATCH_FOUND")
    assert event.message.startswith("4 sequences")
    assert read_state(world, world.checkpoints.manifests[8])["config"]["data"]["micro_batch_size"] == 4
    again = start_workers(world, 2, **resume(world, 8), trainer_config=found)
    assert [row.loss for row in finish(again)] == [row.loss for row in rows[8:]]
    assert events(again[0], "MICRO_BATCH_FOUND") == []
    named = finish(start_workers(world, 2, epoch=3, trainer_config=world.config(data={"micro_batch_size": 4})))
    assert [row.loss for row in named] == [row.loss for row in rows]


def test_micro_batch_that_is_found_under_a_tight_limit_is_one_sequence(world: World) -> None:
    tight = world.config(data={"micro_batch_size": 0, "micro_batch_memory_gib": 0.001})
    workers = start_workers(world, 1, trainer_config=tight)
    finish(workers)
    (event,) = events(workers[0], "MICRO_BATCH_FOUND")
    assert event.message.startswith("1 sequences")
