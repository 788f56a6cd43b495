from __future__ import annotations

from trainer_harness import World, finish, start_workers


def test_two_ranks_train_checkpoint_and_learn(world: World) -> None:
    rows = finish(start_workers(world, 2))
    assert [row.step for row in rows] == list(range(1, 13))
    assert sorted(world.checkpoints.committed) == [4, 8, 12]
    assert rows[-1].loss < rows[0].loss
