"""Begin, commit, fencing, latest, over gRPC."""

import asyncio
import json
import os

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul_core.db import Database
from longhaul_core.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from longhaul_core.manifests import read_manifest

from tests.integration.checkpoint.support import RUN, checkpoint_name, flip_bit, write_part, write_parts

LINEAGE = json_format.ParseDict({"code": "abc", "world": {"size": 2}}, Struct())


async def test_commit_writes_one_manifest_that_names_every_part(client):
    committed = await client.save(
        100, tokens=4096, metrics={"loss": 2.5}, parent="projects/demo/checkpoints/r1-step-00000050-e1", lineage=LINEAGE
    )
    assert committed.state == pb.CHECKPOINT_STATE_COMMITTED
    assert committed.metadata.name == checkpoint_name(100)
    assert (committed.parts, committed.tokens, dict(committed.metrics)) == (3, 4096, {"loss": 2.5})
    manifest = read_manifest(client.store, "projects/demo/manifests/checkpoints/r1/step-00000100-e1.json")
    assert manifest.digest == committed.digest
    assert {part.key for part in manifest.parts} == {
        "projects/demo/checkpoints/r1/step-00000100-e1/" + path
        for path in ("model/rank-0.safetensors", "model/rank-1.safetensors", "trainer_state.json")
    }
    assert json_format.MessageToDict(committed.lineage) == {"code": "abc", "world": {"size": 2}}
    assert committed.size_bytes == manifest.size


async def test_begin_and_commit_repeated_are_the_same(client):
    first = await client.save(10)
    begun = await client.begin(10)
    again = await client.commit(begun, write_parts(client.store, begun.prefix, 10))
    assert (begun.metadata.uid, again) == (first.metadata.uid, first)


async def test_commit_of_other_parts_after_the_commit_is_refused(client):
    await client.save(10)
    begun = await client.begin(10)
    part = write_part(client.store, begun.prefix + "other.json", b"{}")
    with pytest.raises(AlreadyExists) as caught:
        await client.commit(begun, [part])
    assert caught.value.reason == "SPEC_DIFFERS"


async def test_uncommitted_checkpoint_is_not_visible(client):
    begun = await client.begin(10)
    write_parts(client.store, begun.prefix, 10)
    assert begun.state == pb.CHECKPOINT_STATE_BEGUN
    assert await client.steps() == []
    assert await client.steps(show_all=True) == [10]
    with pytest.raises(NotFound) as caught:
        await client.latest()
    assert caught.value.reason == "NO_CHECKPOINT"


@pytest.mark.parametrize(
    ("harm", "error", "reason"),
    [
        ("missing", DataLoss, "PART_MISSING"),
        ("truncated", DataLoss, "PART_DAMAGED"),
        ("flipped", DataLoss, "PART_DAMAGED"),
        ("swapped", DataLoss, "PART_DAMAGED"),
        ("absurd header", InvalidArgument, "PART_MALFORMED"),
        ("pickle", InvalidArgument, "PART_MALFORMED"),
    ],
)
async def test_commit_of_a_corrupted_part_is_refused_with_its_name(client, harm, error, reason):
    begun = await client.begin(10)
    parts = write_parts(client.store, begun.prefix, 10)
    key = begun.prefix + "model/rank-1.safetensors"
    path = client.path(key)
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "flipped":
        flip_bit(path)
    elif harm == "swapped":
        other = client.path(begun.prefix + "model/rank-0.safetensors")
        ours, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(ours)
    else:
        data = (1 << 62).to_bytes(8, "little") + b"{}" if harm == "absurd header" else b"\x80\x05K\x01." * 4
        parts[1] = write_part(client.store, key, data)
    with pytest.raises(error) as caught:
        await client.commit(begun, parts)
    assert caught.value.reason == reason
    assert caught.value.metadata["part"] == (
        "model/rank-0.safetensors" if harm == "swapped" else "model/rank-1.safetensors"
    )
    assert await client.steps() == []
    await client.commit(begun, write_parts(client.store, begun.prefix, 10))
    assert await client.steps() == [10]


async def test_part_outside_the_checkpoints_prefix_is_refused(client):
    begun = await client.begin(10)
    part = write_part(client.store, "projects/demo/checkpoints/other/step-00000001-e1/x.json", b"{}")
    with pytest.raises(InvalidArgument) as caught:
        await client.commit(begun, [part])
    assert caught.value.reason == "INVALID_PARTS"


async def test_replaced_epoch_can_neither_begin_nor_commit(client):
    begun = await client.begin(10, epoch=1)
    parts = write_parts(client.store, begun.prefix, 10)
    registered = await client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=2))
    assert registered.epoch == 2
    for attempt in (client.commit(begun, parts), client.begin(20, epoch=1)):
        with pytest.raises(FailedPrecondition) as caught:
            await attempt
        assert caught.value.reason == "STALE_EPOCH"
        assert caught.value.metadata["registered_epoch"] == "2"
    with pytest.raises(FailedPrecondition):
        await client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=1))
    assert await client.steps() == []


async def test_epoch_replaced_while_its_manifest_is_written_is_refused_and_swept(serve):
    async with serve() as client:
        begun = await client.begin(10, epoch=1)
        parts = write_parts(client.store, begun.prefix, 10)
        tasks = [asyncio.create_task(client.commit(begun, parts))]
        tasks.append(
            asyncio.create_task(client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=2)))
        )
        outcome, _ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(outcome, FailedPrecondition):
            assert outcome.reason == "STALE_EPOCH"
            assert await client.steps() == []
            await client.collect()
            assert client.objects() == []
        else:
            assert (await client.latest()).step == 10


async def test_latest_after_a_roll_back_is_on_the_new_line(client):
    for step in (10, 20, 30):
        await client.save(step, epoch=1)
    request = pb.RegisterEpochRequest(training_run=RUN, epoch=2, resume_checkpoint=checkpoint_name(10))
    await client.call("RegisterEpoch", request)
    assert (await client.latest()).step == 10
    await client.save(15, epoch=2)
    latest = await client.latest()
    assert (latest.step, latest.epoch) == (15, 2)
    assert (await client.latest(maximum_step=14)).step == 10


async def test_latest_falls_back_when_a_part_is_damaged_and_returns_when_it_is_restored(client):
    for step in (10, 20, 30):
        await client.save(step)
    path = client.path((await client.latest()).prefix + "model/rank-0.safetensors")
    good = path.read_bytes()
    flip_bit(path)
    client.path("projects/demo/checkpoints/r1/step-00000020-e1/trainer_state.json").unlink()
    assert (await client.latest()).step == 10
    damaged = await client.call("GetCheckpoint", pb.GetCheckpointRequest(name=checkpoint_name(30)))
    assert damaged.state == pb.CHECKPOINT_STATE_DAMAGED
    assert damaged.reason.code == "PART_DIGEST_DIFFERS"
    assert damaged.reason.metadata["part"] == "model/rank-0.safetensors"
    path.write_bytes(good)
    verified = await client.call("VerifyCheckpoint", pb.VerifyCheckpointRequest(name=checkpoint_name(30)))
    assert verified.intact
    assert verified.bytes_read == damaged.size_bytes
    assert (await client.latest()).step == 30


async def test_edited_manifest_is_damage(client):
    await client.save(10)
    committed = await client.save(20)
    path = client.path(committed.manifest_key)
    document = json.loads(path.read_text())
    document["parts"][0]["digest"] = "0" * 64
    path.write_text(json.dumps(document))
    assert (await client.latest()).step == 10
    response = await client.call("VerifyCheckpoint", pb.VerifyCheckpointRequest(name=checkpoint_name(20)))
    assert list(response.damaged_parts) == ["manifest.json"]
    assert response.damaged_parts["manifest.json"].startswith("MANIFEST_CORRUPT")


async def test_damage_by_bit_rot_is_found_once_the_last_reading_is_old(serve):
    async with serve(reverify_seconds=0) as client:
        await client.save(10)
        committed = await client.save(20)
        path = client.path(committed.prefix + "model/rank-0.safetensors")
        status = path.stat()
        flip_bit(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (await client.latest()).step == 10


async def test_untouched_parts_are_not_read_again(client):
    await client.save(10)
    first = await client.latest()
    assert (await client.latest()).verify_time == first.verify_time
    verified = await client.call("VerifyCheckpoint", pb.VerifyCheckpointRequest(name=checkpoint_name(10)))
    assert verified.checkpoint.verify_time.ToDatetime() > first.verify_time.ToDatetime()


async def test_names_and_numbers_that_cannot_be_are_refused(client):
    for request in (
        pb.BeginCheckpointRequest(training_run="r1", step=1, epoch=1, world_size=1),
        pb.BeginCheckpointRequest(training_run=RUN, step=-1, epoch=1, world_size=1),
        pb.BeginCheckpointRequest(training_run=RUN, step=1, epoch=0, world_size=1),
        pb.BeginCheckpointRequest(training_run=RUN, step=1, epoch=1, world_size=0),
    ):
        with pytest.raises(InvalidArgument):
            await client.call("BeginCheckpoint", request)
    with pytest.raises(NotFound):
        await client.call("GetCheckpoint", pb.GetCheckpointRequest(name=checkpoint_name(99)))


async def test_list_pages_newest_first_and_keeps_runs_apart(client):
    for step in (1, 2, 3, 4, 5):
        await client.save(step)
    await client.save(7, run="projects/demo/trainingRuns/r1-step-0")
    seen, token = [], ""
    while True:
        request = pb.ListCheckpointsRequest(parent="projects/demo", training_run=RUN, page_size=2, page_token=token)
        page = await client.call("ListCheckpoints", request)
        seen += [checkpoint.step for checkpoint in page.checkpoints]
        token = page.next_page_token
        if not token:
            break
    assert seen == [5, 4, 3, 2, 1]
    everything = await client.call("ListCheckpoints", pb.ListCheckpointsRequest(parent="projects/demo"))
    assert [checkpoint.step for checkpoint in everything.checkpoints] == [7, 5, 4, 3, 2, 1]


async def test_watch_resumes_after_a_revision(client):
    first = await client.save(1)
    await client.save(2)
    request = pb.WatchCheckpointsRequest(
        parent="projects/demo", training_run=RUN, after_revision=first.metadata.revision
    )
    stream = client.stub.WatchCheckpoints(request, timeout=60)
    async for response in stream:
        assert response.checkpoint.step == 2
        if response.checkpoint.state == pb.CHECKPOINT_STATE_COMMITTED:
            break
    await client.save(3)
    async for response in stream:
        if response.checkpoint.state == pb.CHECKPOINT_STATE_COMMITTED:
            assert response.checkpoint.step == 3
            break
    stream.cancel()


async def test_diff_names_changed_parts_and_lineage(client):
    await client.save(1, lineage=LINEAGE)
    await client.save(2, lineage=json_format.ParseDict({"code": "abd", "world": {"size": 2}}, Struct()))
    request = pb.DiffCheckpointsRequest(first=checkpoint_name(1), second=checkpoint_name(2))
    diff = await client.call("DiffCheckpoints", request)
    assert sorted(diff.changed) == ["model/rank-0.safetensors", "model/rank-1.safetensors", "trainer_state.json"]
    assert dict(diff.lineage) == {"code": '"abc" -> "abd"'}


async def test_commit_whose_caller_goes_away_is_joined_by_its_repetition(client):
    begun = await client.begin(10)
    parts = write_parts(client.store, begun.prefix, 10)
    request = pb.CommitCheckpointRequest(name=begun.metadata.name, epoch=1, parts=parts)
    first = client.stub.CommitCheckpoint(request)
    first.cancel()
    committed = await client.commit(begun, parts)
    assert committed.state == pb.CHECKPOINT_STATE_COMMITTED
    assert await client.steps() == [10]


@pytest.mark.needs_program("postgres")
async def test_catalogue_in_postgresql_commits_fences_and_falls_back(serve, postgres_url):
    Database.open(postgres_url, migrated=True).close()
    async with serve(database_url=postgres_url) as client:
        for step in (10, 20):
            await client.save(step)
        await client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=2))
        with pytest.raises(FailedPrecondition):
            await client.begin(30, epoch=1)
        await client.save(30, epoch=2)
        flip_bit(client.path("projects/demo/checkpoints/r1/step-00000030-e2/trainer_state.json"))
        assert (await client.latest()).step == 20
        await client.retain(keep_last=1)
        await client.collect()
        assert await client.steps() == [30, 20]
