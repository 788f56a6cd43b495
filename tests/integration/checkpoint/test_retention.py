"""Retention and holds over gRPC, and the loops that work by themselves."""

import pytest
from google.protobuf.duration_pb2 import Duration
from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul_core.errors import FailedPrecondition, InvalidArgument

from tests.integration.checkpoint.support import RUN, checkpoint_name, eventually, flip_bit, write_part, write_parts


def _reasons(response):
    return {int(d.checkpoint.split("-")[-2]): d.reason for d in response.decisions}


async def test_dry_run_says_what_the_policy_deletes_and_deletes_nothing(client):
    for step in (10, 20, 30, 40):
        await client.save(step, metrics={"loss": abs(step - 10) + 1.0})
    await client.retain(keep_last=1, keep_every_steps=20, keep_best=1, best_metric="loss", minimize=True)
    response = await client.collect(dry_run=True)
    assert _reasons(response) == {40: "latest-verified, last, every", 30: "expired", 20: "every", 10: "best"}
    assert response.bytes_freed > 0
    assert await client.steps() == [40, 30, 20, 10]


async def test_collection_removes_manifest_and_parts_of_what_expired(client):
    for step in (10, 20, 30):
        await client.save(step)
    await client.retain(keep_last=1, milestones=[10])
    response = await client.collect()
    assert [d.checkpoint for d in response.decisions if d.deleted] == [checkpoint_name(20)]
    assert await client.steps() == [30, 10]
    assert not [key for key in client.objects() if "step-00000020" in key]
    deleted = await client.call("GetCheckpoint", pb.GetCheckpointRequest(name=checkpoint_name(20)))
    assert deleted.state == pb.CHECKPOINT_STATE_DELETED
    with pytest.raises(FailedPrecondition):
        await client.begin(20)


async def test_pinned_and_leased_checkpoints_stay_until_they_are_let_go(client):
    for step in (10, 20, 30):
        await client.save(step)
    await client.retain(keep_last=1)
    await client.call("PinCheckpoint", pb.PinCheckpointRequest(name=checkpoint_name(10)))
    lease = pb.LeaseCheckpointRequest(name=checkpoint_name(20), holder="eval", duration=Duration(seconds=60))
    leased = await client.call("LeaseCheckpoint", lease)
    assert [holder.holder for holder in leased.leases] == ["eval"]
    assert _reasons(await client.collect()) == {30: "latest-verified, last", 20: "leased", 10: "pinned"}
    await client.call("UnpinCheckpoint", pb.UnpinCheckpointRequest(name=checkpoint_name(10)))
    await client.call("ReleaseCheckpoint", pb.ReleaseCheckpointRequest(name=checkpoint_name(20), holder="eval"))
    await client.collect()
    assert await client.steps() == [30]


async def test_silently_damaged_newest_checkpoint_does_not_cost_the_last_good_one(client):
    for step in (10, 20):
        await client.save(step)
    await client.retain(keep_last=1)
    flip_bit(client.path("projects/demo/checkpoints/r1/step-00000020-e1/trainer_state.json"))
    await client.collect()
    assert (await client.latest()).step == 10


async def test_latest_is_kept_after_a_roll_back(client):
    for step in (10, 20, 30):
        await client.save(step)
    await client.retain(keep_last=1)
    request = pb.RegisterEpochRequest(training_run=RUN, epoch=2, resume_checkpoint=checkpoint_name(10))
    await client.call("RegisterEpoch", request)
    await client.collect()
    assert (await client.latest()).step == 10


async def test_recorded_metric_decides_which_is_best(client):
    for step in (10, 20, 30):
        await client.save(step)
    await client.retain(keep_last=1, keep_best=1, best_metric="bits_per_byte", minimize=True)
    request = pb.RecordCheckpointMetricsRequest(name=checkpoint_name(10), metrics={"bits_per_byte": 2.0})
    await client.call("RecordCheckpointMetrics", request)
    await client.collect()
    assert await client.steps() == [30, 10]


async def test_abandoned_begin_and_late_parts_of_a_replaced_epoch_are_swept(client):
    begun = await client.begin(10, epoch=1)
    write_parts(client.store, begun.prefix, 10)
    await client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=2))
    await client.collect()
    assert client.objects() == []
    abandoned = await client.call("GetCheckpoint", pb.GetCheckpointRequest(name=begun.metadata.name))
    assert abandoned.state == pb.CHECKPOINT_STATE_ABANDONED
    write_part(client.store, begun.prefix + "model/late.safetensors", b"late")
    await client.collect()
    assert client.objects() == []


async def test_begin_in_progress_survives_a_collection(client):
    begun = await client.begin(10)
    parts = write_parts(client.store, begun.prefix, 10)
    await client.collect()
    await client.commit(begun, parts)
    assert await client.steps() == [10]


async def test_retention_applies_by_itself_after_commits(serve):
    async with serve(retention_interval_seconds=0.05) as client:
        await client.retain(keep_last=2)
        for step in (10, 20, 30, 40):
            await client.save(step)

        async def swept():
            return await client.steps() == [40, 30] and not [k for k in client.objects() if "step-00000010" in k]

        await eventually(swept)


async def test_scrub_finds_bit_rot_by_itself(serve):
    async with serve(scrub_interval_seconds=0.05, scrub_seconds=0.001) as client:
        committed = await client.save(10)
        flip_bit(client.path(committed.prefix + "model/rank-0.safetensors"))

        async def marked():
            found = await client.call("GetCheckpoint", pb.GetCheckpointRequest(name=checkpoint_name(10)))
            return found.state == pb.CHECKPOINT_STATE_DAMAGED

        await eventually(marked)


async def test_policies_and_leases_that_cannot_be_are_refused(client):
    with pytest.raises(InvalidArgument):
        await client.retain(keep_last=0)
    with pytest.raises(InvalidArgument):
        await client.retain(keep_last=1, keep_best=1)
    await client.save(10)
    for holder, seconds in (("", 10), ("a", 0), ("a", 10**6)):
        request = pb.LeaseCheckpointRequest(name=checkpoint_name(10), holder=holder, duration=Duration(seconds=seconds))
        with pytest.raises(InvalidArgument):
            await client.call("LeaseCheckpoint", request)
    default = await client.call("GetRetention", pb.GetRetentionRequest(training_run=RUN))
    assert default.keep_last == 3
