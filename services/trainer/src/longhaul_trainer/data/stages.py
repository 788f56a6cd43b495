"""Stages of the mixture, from steps to samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.data.mixture import Stage


def mixture_stages(
    config: TrainerConfig, context_stage: int, sources: Sequence[str], weights: Sequence[Mapping[str, float]]
) -> list[Stage]:
    """The stages as one context stage sees them, in its own samples.

    Args:
        config: the run's configuration.
        context_stage: number of the context stage, which counts samples anew.
        sources: all sources, in the order of the streams.
        weights: of each stage, by source.
    """
    steps = [step for step in range(1, config.steps + 1) if config.stage_at(step) == context_stage]

    def samples_before(step: int) -> int:
        return sum(config.global_batch_at(other) for other in steps if other < step)

    found = []
    for change, wanted in zip(config.data.mixture_stages, weights, strict=True):
        begin = samples_before(change.from_step)
        ramp = samples_before(change.from_step + change.ramp_steps) - begin
        found.append(Stage(begin, ramp, [wanted.get(source, 0.0) for source in sources]))
    return found
