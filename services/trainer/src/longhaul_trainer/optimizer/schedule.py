"""Warm-up, stable, decay (Hu et al. 2024): a pure function of the step."""

from __future__ import annotations

import math

from longhaul_core.recipe import TrainerConfig


def learning_rate(config: TrainerConfig, step: int) -> float:
    """Learning rate of the update that completes ``step`` (1 is the first, ``config.steps`` the last)."""
    schedule, peak = config.schedule, config.optimizer.learning_rate
    decay_steps = math.ceil(schedule.decay_fraction * config.steps)
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    past_stable = step - (config.steps - decay_steps)
    if past_stable <= 0 or decay_steps == 0:
        return peak
    return peak * (1.0 - (1.0 - schedule.minimum_ratio) * past_stable / decay_steps)
