from __future__ import annotations

import pytest
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.loop.micro_batch import candidates, choose
from pydantic import ValidationError


class Memory:
    """A step that holds `fixed + each · size` bytes, and more beyond a size than its line promises."""

    def __init__(self, fixed: int, each: int, *, surprise_above: int = 10**9) -> None:
        self.fixed, self.each, self.surprise_above = fixed, each, surprise_above
        self.tried: list[int] = []

    def __call__(self, size: int) -> int:
        self.tried.append(size)
        return self.fixed + self.each * size * (2 if size > self.surprise_above else 1)


@pytest.mark.parametrize(("limit", "expected"), [(100, 1), (1_500, 1), (1_999, 4), (2_600, 16), (10**9, 24)])
def test_largest_size_within_the_limit_is_taken(limit: int, expected: int) -> None:
    memory = Memory(1_400, 75)
    sizes = [1, 2, 4, 8, 16, 24]
    assert choose(sizes, memory, limit) == expected
    assert max(memory.tried) <= max(expected, 2)


def test_size_that_takes_more_than_its_line_promised_gives_way_to_a_smaller_one() -> None:
    memory = Memory(1_000, 100, surprise_above=4)
    assert choose([1, 2, 4, 8], memory, 1_900) == 4
    assert memory.tried[-2:] == [8, 4]


def test_run_with_one_possible_size_measures_nothing() -> None:
    memory = Memory(0, 1)
    assert choose([1], memory, 5) == 1
    assert memory.tried == []


def config(**data: object) -> TrainerConfig:
    return TrainerConfig.model_validate({"data": {"micro_batch_size": 0, **data}})


def test_candidates_divide_every_batch_of_the_run() -> None:
    assert candidates(config(global_batch_size=24), 2) == [1, 2, 3, 4, 6, 12]
    ramp = [{"until_step": 5, "global_batch_size": 8}]
    assert candidates(config(global_batch_size=24, batch_ramp=ramp), 2) == [1, 2, 4]


def test_pipeline_needs_a_named_size() -> None:
    given = {"data": {"micro_batch_size": 0}, "layout": {"pipeline_parallel": 2}}
    with pytest.raises((ValueError, ValidationError), match="pipeline stages"):
        TrainerConfig.model_validate(given).check_world_size(2)
