"""How parameters move: optimizer, loss, learning rate, and what is done about anomalies."""

from enum import StrEnum
from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from longhaul_core.recipe.section import Section


class OptimizerKind(StrEnum):
    """What turns gradients into updates."""

    ADAMW = "adamw"
    MUON = "muon"


class OptimizerConfig(Section):
    """AdamW, or Muon for the hidden matrices and AdamW for the rest; embeddings and norms are not decayed."""

    kind: OptimizerKind = OptimizerKind.ADAMW
    learning_rate: PositiveFloat = 3e-3
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    gradient_clip: PositiveFloat = 1.0
    momentum: float = Field(0.95, ge=0, lt=1, description="of Muon")
    frozen: list[str] = Field(
        default_factory=list, description="names of parameters that are not trained, with * and ?: `layers.0.*`"
    )
    l1: NonNegativeFloat = Field(0.0, description="weight of the absolute values of decayed matrices in the loss")
    l2: NonNegativeFloat = Field(0.0, description="weight of half the squares of decayed matrices in the loss")


class LossConfig(Section):
    """What is minimised beside the cross-entropy."""

    z_loss: NonNegativeFloat = Field(0.0, description="weight of the squared log-partition function (PaLM: 1e-4)")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class ScheduleKind(StrEnum):
    """Course of the learning rate after the warm-up."""

    WSD = "wsd"
    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"
    STEP = "step"
    MULTI_STAGE = "multi_stage"


class RateStage(Section):
    """A part of a multi-stage schedule: the rate moves evenly to `ratio` times the peak until `end_step`."""

    end_step: PositiveInt
    ratio: NonNegativeFloat


class ScheduleConfig(Section):
    """Linear warm-up, then by kind; WSD is constant, then a linear decay to `minimum_ratio`."""

    kind: ScheduleKind = ScheduleKind.WSD
    warmup_steps: NonNegativeInt = 20
    decay_fraction: float = Field(0.2, ge=0, le=1, description="WSD: share of all steps spent in the decay")
    minimum_ratio: float = Field(0.0, ge=0, le=1, description="learning rate at the end, as a share of the peak")
    start_step: NonNegativeInt = Field(0, description="the schedule begins after it: annealing from a checkpoint")
    step_every: PositiveInt = Field(1000, description="step decay: steps between two cuts")
    step_factor: float = Field(0.5, gt=0, le=1, description="step decay: factor of each cut")
    stages: list[RateStage] = Field(default_factory=list, description="multi_stage: in rising order of end_step")

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        ends = [stage.end_step for stage in self.stages]
        if ends != sorted(set(ends)):
            raise ValueError(f"stages: end_step must rise, not {ends}")
        if self.kind is ScheduleKind.MULTI_STAGE and not ends:
            raise ValueError("kind multi_stage needs stages")
        return self


class AnomalyConfig(Section):
    """What is done about steps that are out of the ordinary."""

    spike_sigmas: NonNegativeFloat = Field(6.0, description="skip an update that is so far above the window; 0: never")
    window_steps: PositiveInt = 128
    minimum_samples: PositiveInt = Field(64, description="steps before any is judged")
    rerun_factor: NonNegativeFloat = Field(10.0, description="times the largest seen: compute the step again; 0: no")
    patience: PositiveInt = Field(8, description="skipped updates in a row that call for a rewind")
    rewind_steps: PositiveInt = 100
    skip_batches: NonNegativeInt = Field(200, description="batches that are left out after a rewind")
    rate_cut: float = Field(0.5, gt=0, le=1, description="factor of the learning rate at the second time in one place")
    replica_check_steps: NonNegativeInt = Field(1000, description="steps between two comparisons of replicas; 0: never")
