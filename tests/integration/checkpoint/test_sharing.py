"""Parts that did not change are stored once: who borrows them, and how long they stay."""

import sqlite3

import pytest
from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul_checkpoint.adapters.failpoints import Point
from longhaul_core.errors import DataLoss, InvalidArgument, LonghaulError

from tests.integration.checkpoint.support import (
    FROZEN,
    RUN,
    checkpoint_name,
    client_of,
    flip_bit,
    save_borrowing,
    save_first,
    verify,
    write_part,
)


async def test_borrowed_part_outlives_its_writer_and_goes_with_the_last_that_borrows_it(client):
    frozen = await save_first(client)
    for step in (20, 30):
        await save_borrowing(client, step, frozen)
    await client.retain(keep_last=1)
    promised = (await client.collect(dry_run=True)).bytes_freed
    before = sum(info.size for info in client.store.list("projects/demo/checkpoints/"))
    freed = (await client.collect()).bytes_freed
    after = sum(info.size for info in client.store.list("projects/demo/checkpoints/"))
    assert freed == promised == before - after > 0
    assert await client.steps() == [30]
    assert [key for key in client.objects("projects/demo/checkpoints/") if "step-00000030" not in key] == [frozen.key]
    assert await verify(client, 30) == {}

    await client.save(40)
    promised = (await client.collect(dry_run=True)).bytes_freed
    before, freed = after, (await client.collect()).bytes_freed
    assert freed == promised > frozen.size_bytes
    assert not [key for key in client.objects() if "step-00000040" not in key]


async def test_checkpoint_may_borrow_what_its_lender_had_borrowed(client):
    frozen = await save_first(client)
    await save_borrowing(client, 20, frozen)
    await client.retain(keep_last=1)
    await client.collect()
    await save_borrowing(client, 30, frozen)
    await client.collect()
    assert await client.steps() == [30]
    assert await verify(client, 30) == {}


async def test_part_of_a_deleted_or_foreign_checkpoint_is_not_borrowed(client):
    frozen = await save_first(client)
    await client.save(20)
    await client.retain(keep_last=1)
    await client.collect()
    with pytest.raises(DataLoss, match="missing"):
        await save_borrowing(client, 30, frozen)
    foreign = write_part(client.store, "projects/demo/checkpoints/other/step-00000010-e1/" + FROZEN, b"foreign")
    with pytest.raises(InvalidArgument, match="outside"):
        await save_borrowing(client, 40, foreign)
    never = write_part(client.store, "projects/demo/checkpoints/r1/step-00000015-e1/w.json", b"{}")
    with pytest.raises(DataLoss, match="borrows"):
        await save_borrowing(client, 50, never)
    assert await client.steps() == [20]


async def test_damage_of_a_shared_part_is_damage_of_all_that_hold_it(client):
    await client.save(5)
    frozen = await save_first(client)
    await save_borrowing(client, 20, frozen)
    flip_bit(client.path(frozen.key))
    assert set(await verify(client, 20)) == {FROZEN}
    assert (await client.latest()).step == 5
    diff = pb.DiffCheckpointsRequest(first=checkpoint_name(10), second=checkpoint_name(20))
    assert list((await client.call("DiffCheckpoints", diff)).equal) == [FROZEN]


async def test_commit_killed_after_its_manifest_is_given_up_when_its_lender_goes(process, store, serve, tmp_path):
    process.start(failpoints=f"{Point.COMMIT_AFTER_MANIFEST}:3")
    async with client_of(process, store) as client:
        frozen = await save_first(client)
        await client.save(20)
        with pytest.raises(LonghaulError):
            await save_borrowing(client, 30, frozen)
    assert process.killed()
    with sqlite3.connect(tmp_path / "checkpoint" / "checkpoint.sqlite3") as connection:
        marked = connection.execute("UPDATE resources SET state='DELETING' WHERE id LIKE 'r1-step-00000010-%'")
        assert marked.rowcount == 1
    async with serve() as client:
        await client.retain(keep_last=5)
        await client.collect()
        assert await client.steps() == [20]
        assert not [key for key in client.objects() if "step-00000020" not in key]


async def test_lost_database_is_read_back_with_what_is_shared(serve, tmp_path):
    async with serve() as client:
        frozen = await save_first(client)
        for step in (20, 30):
            await save_borrowing(client, step, frozen)
        await client.retain(keep_last=2)
        await client.collect()
    for path in (tmp_path / "checkpoint").iterdir():
        path.unlink()
    async with serve() as client:
        await client.retain(keep_last=1)
        await client.call("RegisterEpoch", pb.RegisterEpochRequest(training_run=RUN, epoch=2))
        await client.collect()
        assert await client.steps() == [30]
        assert await verify(client, 30) == {}
        await client.save(40, epoch=2)
        await client.collect()
        assert not [key for key in client.objects() if "step-00000040" not in key]
