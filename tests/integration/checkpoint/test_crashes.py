"""`kill -9` at every named point: no committed checkpoint is lost, no other one is visible, no garbage stays."""

import pytest
from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul_checkpoint.adapters.failpoints import Point
from longhaul_core.errors import LonghaulError

from tests.integration.checkpoint.support import RUN, client_of, save_borrowing, save_first, verify, write_parts

COMMIT_POINTS = [point for point in Point if point.startswith("commit.")]
COLLECT_POINTS = [point for point in Point if point.startswith("collect.")]
BEGIN_POINTS = [point for point in Point if point.startswith("begin.")]


@pytest.mark.parametrize("point", BEGIN_POINTS)
async def test_begin_killed_is_repeated(process, store, serve, point):
    process.start(failpoints=point)
    async with client_of(process, store) as client:
        with pytest.raises(LonghaulError):
            await client.begin(10)
    assert process.killed()
    async with serve() as client:
        assert await client.steps() == []
        await client.save(10)
        assert await client.steps() == [10]


@pytest.mark.parametrize("point", COMMIT_POINTS)
async def test_commit_killed_is_there_as_a_whole_or_not_at_all(process, store, serve, point):
    process.start(failpoints=f"{point}:2")
    async with client_of(process, store) as client:
        await client.save(10)
        begun = await client.begin(20)
        parts = write_parts(store, begun.prefix, 20)
        with pytest.raises(LonghaulError):
            await client.commit(begun, parts)
    assert process.killed()
    committed = point in {Point.COMMIT_AFTER_MANIFEST, Point.COMMIT_AFTER_RECORD}
    async with serve() as client:
        assert await client.steps() == ([20, 10] if committed else [10])
        assert (await client.latest()).step == (20 if committed else 10)
        again = await client.commit(begun, parts)
        assert again.state == pb.CHECKPOINT_STATE_COMMITTED
        assert (await client.latest()).step == 20
        assert len([key for key in client.objects() if "/manifests/" in key]) == 2


@pytest.mark.parametrize("point", COLLECT_POINTS)
async def test_retention_killed_is_finished_after_the_restart(process, store, serve, point):
    """What the last checkpoint borrows from a deleted one stays, and goes when nothing borrows it any more."""
    process.start(failpoints=f"{point}:2")
    async with client_of(process, store) as client:
        frozen = await save_first(client, 10)
        for step in (20, 30):
            await save_borrowing(client, step, frozen)
        await client.retain(keep_last=1)
        with pytest.raises(LonghaulError):
            await client.collect()
    assert process.killed()
    async with serve() as client:
        assert (await client.latest()).step == 30
        await client.collect()
        assert await client.steps() == [30]
        assert {key.split("/")[-1][:13] for key in client.objects("projects/demo/manifests/")} == {"step-00000030"}
        assert [key for key in client.objects() if "step-00000030" not in key] == [frozen.key]
        assert await verify(client, 30) == {}
        await client.save(40)
        await client.collect()
        assert not [key for key in client.objects() if "step-00000040" not in key]


async def test_commit_killed_after_its_manifest_and_then_fenced_stays_committed(process, store, serve):
    """The manifest was there before the new epoch: the restart takes it over, and the new epoch begins from it."""
    process.start(failpoints=Point.COMMIT_AFTER_MANIFEST)
    async with client_of(process, store) as client:
        begun = await client.begin(10, epoch=1)
        with pytest.raises(LonghaulError):
            await client.commit(begun, write_parts(store, begun.prefix, 10))
    assert process.killed()
    async with serve() as client:
        await client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=2))
        assert (await client.latest()).step == 10


async def test_lost_database_is_read_back_from_the_manifests(serve, tmp_path):
    async with serve() as client:
        for step in (10, 20):
            await client.save(step, metrics={"loss": float(step)})
    for path in (tmp_path / "checkpoint").iterdir():
        path.unlink()
    async with serve() as client:
        await client.retain(keep_last=5)
        await client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=2))
        latest = await client.latest()
        assert (latest.step, latest.epoch, dict(latest.metrics)) == (20, 1, {"loss": 20.0})
        await client.collect()
        assert await client.steps() == [20, 10]
        await client.save(30, epoch=2)
        assert (await client.latest()).step == 30
