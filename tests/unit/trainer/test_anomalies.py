from __future__ import annotations

import math

import pytest
from longhaul_core.errors import FailedPrecondition
from longhaul_core.recipe import AnomalyConfig, MetricsConfig, ScheduleConfig, ScheduleKind, TrainerConfig
from longhaul_trainer.loop.anomaly import AnomalyState, Rewind, Verdict, judge
from longhaul_trainer.loop.measurements import same_result
from longhaul_trainer.loop.step import Measured
from longhaul_trainer.loop.trackers import open_trackers
from longhaul_trainer.optimizer.schedule import learning_rate, ratio

CONFIG = AnomalyConfig(minimum_samples=8, window_steps=16, patience=3)


def steady(steps: int = 12) -> AnomalyState:
    state = AnomalyState()
    for step in range(steps):
        state = state.observe(3.0 + 0.01 * (step % 3), 1.0 + 0.01 * (step % 2), CONFIG.window_steps)
    return state


@pytest.mark.parametrize(
    ("loss", "norm", "first", "again"),
    [
        (3.0, 1.0, Verdict.TAKE, Verdict.TAKE),
        (1.0, 0.1, Verdict.TAKE, Verdict.TAKE),
        (3.5, 1.0, Verdict.SKIP, Verdict.SKIP),
        (3.0, 2.0, Verdict.SKIP, Verdict.SKIP),
        (40.0, 1.0, Verdict.RERUN, Verdict.SKIP),
        (math.nan, 1.0, Verdict.RERUN, Verdict.SKIP),
        (3.0, math.inf, Verdict.RERUN, Verdict.SKIP),
    ],
)
def test_verdict_follows_the_table(loss: float, norm: float, first: Verdict, again: Verdict) -> None:
    assert judge(steady(), CONFIG, 13, loss, norm, rerun=False) is first
    assert judge(steady(), CONFIG, 13, loss, norm, rerun=True) is again


def test_nothing_is_judged_before_there_are_enough_samples_but_what_is_not_finite() -> None:
    assert judge(steady(7), CONFIG, 8, 1e6, 1e6, rerun=False) is Verdict.TAKE
    assert judge(steady(7), CONFIG, 8, math.nan, 1.0, rerun=False) is Verdict.RERUN


def test_spikes_in_a_row_rewind_then_rewind_slower_then_stop() -> None:
    state = steady()
    for _ in range(CONFIG.patience - 1):
        assert judge(state, CONFIG, 13, 9.0, 1.0, rerun=False) is Verdict.SKIP
        state = state.leave_out()
    assert judge(state, CONFIG, 15, 9.0, 1.0, rerun=False) is Verdict.REWIND
    rewind = Rewind(failed_step=15, step=5, stage=0, skipped_from=40, skipped_to=90)
    for factor, verdict in ((1.0, Verdict.REWIND), (0.5, Verdict.STOP)):
        rewinds = state.rewound(rewind, CONFIG.rate_cut)
        assert rewinds.rate_factor == factor
        assert rewinds.losses == ()
        state = steady().model_copy(update={**rewinds.model_dump(include={"rate_factor"}), "rewinds": rewinds.rewinds})
        state = state.leave_out().leave_out()
        assert judge(state, CONFIG, 16, 9.0, 1.0, rerun=False) is verdict
    assert judge(state, CONFIG, 400, 9.0, 1.0, rerun=False) is Verdict.REWIND


def test_state_survives_json_bit_for_bit() -> None:
    state = steady().leave_out()
    assert AnomalyState.model_validate_json(state.model_dump_json()) == state


def test_second_computation_must_agree_exactly_or_within_round_off() -> None:
    def measured(loss: float) -> Measured:
        return Measured(loss, 1.0, 8, (), {})

    assert same_result(measured(2.0), measured(2.0), exact=True)
    assert not same_result(measured(2.0), measured(2.0 + 1e-9), exact=True)
    assert same_result(measured(2.0), measured(2.0 + 1e-9), exact=False)
    assert not same_result(measured(2.0), measured(2.1), exact=False)
    assert same_result(measured(math.nan), measured(math.nan), exact=True)


def test_schedules_take_their_course() -> None:
    def course(kind: ScheduleKind, **more: object) -> list[float]:
        schedule = ScheduleConfig.model_validate({"kind": kind, "warmup_steps": 0, **more})
        return [ratio(schedule, step, 8) for step in range(1, 9)]

    assert course(ScheduleKind.CONSTANT) == [1.0] * 8
    assert course(ScheduleKind.LINEAR, minimum_ratio=0.2)[-1] == pytest.approx(0.2)
    cosine = course(ScheduleKind.COSINE, minimum_ratio=0.1)
    assert cosine[3] == pytest.approx(0.55)
    assert cosine[-1] == pytest.approx(0.1)
    assert course(ScheduleKind.STEP, step_every=3, step_factor=0.5) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    stages = [{"end_step": 4, "ratio": 1.0}, {"end_step": 8, "ratio": 0.0}]
    assert course(ScheduleKind.MULTI_STAGE, stages=stages) == [1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


def test_annealing_begins_at_the_checkpoint_it_starts_from() -> None:
    config = TrainerConfig.model_validate(
        {
            "steps": 108,
            "optimizer": {"learning_rate": 1.0},
            "schedule": {"kind": "linear", "warmup_steps": 0, "start_step": 100},
        }
    )
    assert [learning_rate(config, step) for step in (101, 104, 108)] == pytest.approx([0.875, 0.5, 0.0])


def test_batch_ramp_and_context_stages_by_step() -> None:
    data = {
        "sequence_length": 32,
        "global_batch_size": 16,
        "micro_batch_size": 4,
        "batch_ramp": [{"until_step": 2, "global_batch_size": 4}, {"until_step": 4, "global_batch_size": 8}],
        "context_stages": [{"after_step": 6, "sequence_length": 64, "global_batch_size": 8, "rope_theta": 2e6}],
    }
    config = TrainerConfig.model_validate({"data": data})
    assert [config.global_batch_at(step) for step in range(1, 9)] == [4, 4, 8, 8, 16, 16, 8, 8]
    assert [config.tokens_at(step) for step in (1, 6, 7)] == [128, 512, 512]
    assert [config.stage_at(step) for step in (6, 7)] == [0, 1]
    assert [config.rope_theta_of_stage(stage) for stage in (0, 1)] == [50_000.0, 2e6]
    assert config.longest_sequence == 64


def test_tracker_that_is_not_installed_is_named(tmp_path: object) -> None:
    with pytest.raises(FailedPrecondition, match="mlflow is not installed"):
        open_trackers(MetricsConfig(mlflow=True), run="r", folder=tmp_path)  # type: ignore[arg-type]
