from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from longhaul_core.recipe import MoeConfig, TrainerConfig
from longhaul_trainer.checkpoint.trainer_state import TrainerState
from longhaul_trainer.loop.anomaly import AnomalyState
from longhaul_trainer.loop.control import Control
from longhaul_trainer.loop.measurements import device_memory, model_figures
from longhaul_trainer.loop.saving import LONGEST_STALL_SECONDS, Saving
from longhaul_trainer.loop.stops import AttemptFailed
from longhaul_trainer.model import DecoderShape

from tests.unit.trainer.test_checkpoint import trainer_state


class SlowSaver:
    """A saver whose uploads end when they are let go."""

    def __init__(self, *, commits: bool = True) -> None:
        self.waits: list[float] = []
        self.started: list[int] = []
        self.busy = False
        self.commits = commits

    def start(self, state: TrainerState) -> None:
        assert not self.busy
        self.started.append(state.position)
        self.busy = True

    def finish(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.commits

    def join_staging(self) -> float:
        return 0.25


def saving(saver: SlowSaver) -> Saving:
    grid: Any = SimpleNamespace(group=SimpleNamespace(sum=lambda values: values))
    order: Any = SimpleNamespace(epochs=lambda _cursor: {"web": 0.5})
    reporter: Any = SimpleNamespace(phase=lambda *_: None)
    config = TrainerConfig.model_validate({"steps": 100, "checkpoint": {"every_steps": 10}})
    stand_in: Any = saver
    return Saving(config, grid, [order], stand_in, reporter, Control(), -1)


def test_store_that_is_slow_holds_a_due_save_up_for_so_long_and_then_puts_it_off() -> None:
    saver = SlowSaver()
    schedule = saving(saver)
    schedule.save_if_due(trainer_state(10), busy=False, wanted=False)
    schedule.save_if_due(trainer_state(20), busy=True, wanted=False)
    assert saver.waits == [LONGEST_STALL_SECONDS]
    schedule.save_if_due(trainer_state(21), busy=True, wanted=False)
    assert saver.started == [10]
    saver.busy = False
    schedule.save_if_due(trainer_state(22), busy=False, wanted=False)
    assert saver.started == [10, 22]
    assert saver.waits == [LONGEST_STALL_SECONDS]


def test_stall_is_told_once() -> None:
    schedule = saving(SlowSaver())
    schedule.join_staging()
    schedule.join_staging()
    assert schedule.take_stall() == 0.5
    assert schedule.take_stall() == 0.0


def test_nothing_is_saved_while_updates_are_left_out() -> None:
    saver = SlowSaver()
    doubtful = trainer_state(10).model_copy(update={"anomalies": AnomalyState().leave_out()})
    saving(saver).save_if_due(doubtful, busy=False, wanted=True)
    assert saver.started == []


def test_last_checkpoint_that_is_not_committed_ends_the_attempt() -> None:
    with pytest.raises(AttemptFailed, match="step 100"):
        saving(SlowSaver(commits=False)).save_and_wait(trainer_state(100))


def test_mixture_of_experts_tells_how_sparse_and_fine_grained_it_is() -> None:
    sizes = {"vocabulary_size": 64, "hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 64}
    dense = DecoderShape(**sizes, context_length=16)
    assert model_figures(dense).keys() == {"parameters", "active_matrix_parameters"}
    moe = MoeConfig(experts=8, experts_per_token=2, expert_size=16)
    figures = model_figures(DecoderShape(**sizes, context_length=16, moe=moe))
    assert (figures["sparsity"], figures["granularity"]) == (4.0, 4.0)


def test_memory_of_the_process_is_told_on_a_cpu() -> None:
    assert device_memory(torch.device("cpu"))["memory_bytes"] > 1e6
