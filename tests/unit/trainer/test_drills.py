"""Planted faults: meant for whom, and what they do to a step and to a batch."""

import time

import numpy as np
import pytest
import torch
from longhaul_core.errors import InvalidArgument
from longhaul_trainer.data.loader import Loader, Reading
from longhaul_trainer.data.samples import Batch
from longhaul_trainer.loop.drills import Drill, Fault
from torch import nn


def drill(text: str, rank: int = 0, node: str = "node-1", epoch: int = 1) -> Drill:
    return Drill.parse(text, rank=rank, node=node, epoch=epoch)


def test_faults_are_kept_only_where_all_their_conditions_hold() -> None:
    text = "step=0.5@node=node-2, hang=20@rank=1@epoch=1,loader=0.25"
    assert drill(text).faults == {Fault.LOADER: 0.25}
    assert drill(text, rank=1).faults == {Fault.HANG: 20, Fault.LOADER: 0.25}
    assert drill(text, rank=1, node="node-2", epoch=2).faults == {Fault.STEP: 0.5, Fault.LOADER: 0.25}
    assert not drill("").faults


@pytest.mark.parametrize("text", ["steps=1", "step", "step=fast", "step=0", "step=nan", "hang=3@host=a", "hang=3@rank"])
def test_what_is_no_fault_is_refused_with_the_words_that_are_known(text: str) -> None:
    with pytest.raises(InvalidArgument, match=text.partition("@")[0]) as refused:
        drill(f"loader=1,{text}")
    assert "step, loader, hang, corrupt, gemm, order, shards" in refused.value.violations[0][1]


def test_slow_step_dawdles_once_and_only_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    model = nn.Linear(2, 2)
    planted = drill("step=0.05")
    planted.attach(model)
    counts = []
    for begins in (False, True, False):
        if begins:
            planted.begin(1)
        model(torch.zeros(1, 2))
        counts.append(len(slept))
    assert counts == [0, 1, 1]
    assert slept == [0.05]


class EmptyOrder:
    def read(self, samples: object) -> Batch:
        nothing = np.zeros((0, 0), dtype=np.int64)
        return Batch(nothing, nothing, nothing)


def test_loader_is_late_in_proportion_to_the_step() -> None:
    planted = drill("loader=0.02")
    assert [planted.delay(Reading(0, 8 * step, 8)) for step in (0, 1, 5)] == [0.0, 0.02, 0.1]
    loader = Loader([EmptyOrder()], rank=0, ranks=1, delay=planted.delay)  # type: ignore[list-item]
    loader.take(Reading(0, 40, 8), Reading(0, 0, 8))
    loader.close()
    assert loader.wait_seconds >= 0.1


def test_first_result_of_one_step_is_no_number_and_the_second_is_right() -> None:
    model = nn.Linear(2, 2)
    planted = drill("corrupt=3")
    planted.attach(model)
    finite = []
    for step in (2, 3):
        planted.begin(step)
        finite += [bool(model(torch.ones(1, 2)).isfinite().all()) for _ in range(2)]
    assert finite == [True, True, False, True]


def test_spoilt_shards_are_the_same_on_every_rank() -> None:
    models = [nn.Linear(4, 4) for _ in range(2)]
    for rank, model in enumerate(models):
        drill("shards=1", rank=rank).spoil(model)
    assert torch.equal(models[0].weight, models[1].weight)
    assert len(models[0].weight.unique()) > 1
    assert drill("gemm=0.2").measured_speed(5.0) == 1.0
