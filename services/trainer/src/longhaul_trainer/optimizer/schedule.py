"""Learning rate by step: warm-up, then one of several courses; a pure function of the step."""

from __future__ import annotations

import math

from longhaul_core.recipe import ScheduleConfig, ScheduleKind, TrainerConfig


def learning_rate(config: TrainerConfig, step: int) -> float:
    """Learning rate of the update that completes ``step`` (1 is the first, ``config.steps`` the last)."""
    schedule, peak = config.schedule, config.optimizer.learning_rate
    step, steps = step - schedule.start_step, config.steps - schedule.start_step
    if step <= schedule.warmup_steps:
        return peak * max(step, 0) / schedule.warmup_steps if schedule.warmup_steps else peak
    return peak * ratio(schedule, step, steps)


def ratio(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Share of the peak after the warm-up."""
    if schedule.kind is ScheduleKind.WSD:
        return _stable_then_decay(schedule, step, steps)
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    low = schedule.minimum_ratio
    if schedule.kind is ScheduleKind.COSINE:
        return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule.kind is ScheduleKind.LINEAR:
        return 1.0 - (1.0 - low) * progress
    if schedule.kind is ScheduleKind.STEP:
        return max(low, schedule.step_factor ** ((step - schedule.warmup_steps - 1) // schedule.step_every))
    if schedule.kind is ScheduleKind.MULTI_STAGE:
        return _by_stages(schedule, step)
    return 1.0


def _stable_then_decay(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Constant, then a linear decay (WSD, Hu et al. 2024)."""
    decay_steps = math.ceil(schedule.decay_fraction * steps)
    past_stable = step - (steps - decay_steps)
    if past_stable <= 0 or decay_steps == 0:
        return 1.0
    return 1.0 - (1.0 - schedule.minimum_ratio) * past_stable / decay_steps


def _by_stages(schedule: ScheduleConfig, step: int) -> float:
    begin, before = schedule.warmup_steps, 1.0
    for stage in schedule.stages:
        if step <= stage.end_step:
            share = (step - begin) / max(1, stage.end_step - begin)
            return before + (stage.ratio - before) * share
        begin, before = max(begin, stage.end_step), stage.ratio
    return before
