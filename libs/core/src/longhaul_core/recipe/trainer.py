"""What the trainer is told: one configuration that the client writes, the controller checks, the workers read."""

from collections.abc import Iterator
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from longhaul_core.recipe.batches import DataConfig
from longhaul_core.recipe.layout import LayoutConfig, RuntimeConfig, layout_problems
from longhaul_core.recipe.model import ModelConfig
from longhaul_core.recipe.section import Section
from longhaul_core.recipe.updates import AnomalyConfig, LossConfig, OptimizerConfig, ScheduleConfig, ScheduleKind


class ValidationConfig(Section):
    """Loss on the held-out split."""

    every_steps: NonNegativeInt = Field(50, description="0: never")
    sequences: PositiveInt = 64


class StartConfig(Section):
    """What a run begins with instead of random values. `longhaul runs fork` fills it in."""

    checkpoint: str = Field("", description="name of a committed checkpoint; empty: none")
    manifest_key: str = Field("", description="key of its manifest in the object store")
    manifest_digest: str = ""
    huggingface: str = Field("", description="folder with config.json and safetensors: a path, or a store prefix")
    keep_optimizer: bool = Field(True, description="take over the moments where the optimizer is the same")
    keep_progress: bool = Field(True, description="take over step and data cursor; false: weights alone")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.huggingface and self.checkpoint:
            raise ValueError("start.huggingface and start.checkpoint exclude one another")
        if self.checkpoint and not self.manifest_key:
            raise ValueError("start.checkpoint needs start.manifest_key; see `longhaul checkpoints show`")
        return self


class CheckpointConfig(Section):
    """When checkpoints are written and which are kept."""

    every_steps: PositiveInt = 50
    keep_last: PositiveInt = 3
    keep_every_steps: NonNegativeInt = Field(0, description="keep each checkpoint whose step is a multiple; 0: none")
    peer_memory_bytes: NonNegativeInt = Field(
        0, description="memory a pod lends to ranks on other nodes for copies of their newest parts; 0: none"
    )


class MetricsConfig(Section):
    """Where metrics go beside the controller; the program must be installed in the trainer's image."""

    tensorboard: bool = False
    trackio: bool = False
    mlflow: bool = False
    wandb: bool = False


class TrainerConfig(Section):
    """Everything that determines the losses of a run, given its token set."""

    steps: PositiveInt = 300
    seed: NonNegativeInt = 0
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    layout: LayoutConfig = LayoutConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    anomalies: AnomalyConfig = AnomalyConfig()
    metrics: MetricsConfig = MetricsConfig()
    start: StartConfig = StartConfig()

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        schedule = self.schedule
        decay = schedule.decay_fraction if schedule.kind is ScheduleKind.WSD else 0.0
        steps = self.steps - schedule.start_step
        if steps < 1:
            raise ValueError(f"schedule.start_step {schedule.start_step} leaves none of the {self.steps} steps")
        if schedule.warmup_steps + decay * steps > steps:
            raise ValueError(
                f"schedule.warmup_steps {schedule.warmup_steps} and the decay of "
                f"{decay:.0%} do not fit in {steps} steps"
            )
        return self

    def check_world_size(self, world_size: int) -> LayoutConfig:
        """Return the resolved layout, after checking that the model and every batch divide over it.

        Raises:
            ValueError: naming the degrees or sizes that do not fit.
        """
        layout = self.layout.resolve(world_size)
        for problem in (*layout_problems(self.model, layout), *self._batch_problems(layout)):
            raise ValueError(problem)
        return layout

    def _batch_problems(self, layout: LayoutConfig) -> Iterator[str]:
        data = self.data
        sizes = [("data.global_batch_size", data.global_batch_size, data.micro_batch_size)]
        sizes += [("data.batch_ramp", part.global_batch_size, data.micro_batch_size) for part in data.batch_ramp]
        for stage in data.context_stages:
            whole = stage.global_batch_size or data.global_batch_size
            sizes.append(("data.context_stages", whole, stage.micro_batch_size or data.micro_batch_size))
        for name, whole, micro in sizes:
            if whole % layout.data_parallel:
                yield f"{name} {whole} is not a multiple of data_parallel {layout.data_parallel}"
                return
            each = whole // layout.data_parallel
            if not micro:
                if layout.stages > 1:
                    yield "data.micro_batch_size 0 (found) does not go with pipeline stages: name a size"
                    return
                continue
            if each % min(micro, each):
                yield f"{each} sequences a rank is not a multiple of data.micro_batch_size {micro}"
            elif each // min(micro, each) < layout.stages > 1:
                yield f"{each // min(micro, each)} micro-batches are too few for {layout.stages} pipeline stages"
        for length in [data.sequence_length, *(stage.sequence_length for stage in data.context_stages)]:
            if layout.context_parallel > 1 and length % (2 * layout.context_parallel):
                yield f"sequence length {length} is not a multiple of twice context_parallel {layout.context_parallel}"
            if length % (layout.tensor_parallel * layout.context_parallel):
                yield f"sequence length {length} is not a multiple of tensor_parallel × context_parallel"

    def stage_at(self, step: int) -> int:
        """Context stage of the update that completes the step; 0 before the first of `data.context_stages`."""
        return sum(step > stage.after_step for stage in self.data.context_stages)

    def data_of_stage(self, stage: int) -> DataConfig:
        """Return the data section as the stage changes it."""
        data = self.data
        for change in data.context_stages[:stage]:
            given = {
                "sequence_length": change.sequence_length,
                "global_batch_size": change.global_batch_size,
                "micro_batch_size": change.micro_batch_size,
                "mixture": change.mixture,
            }
            data = data.model_copy(update={name: value for name, value in given.items() if value})
        return data

    def rope_theta_of_stage(self, stage: int) -> float:
        """Rotary base of a context stage."""
        thetas = [change.rope_theta for change in self.data.context_stages[:stage] if change.rope_theta]
        return thetas[-1] if thetas else self.model.rope_theta

    def global_batch_at(self, step: int) -> int:
        """Sequences of the update that completes the step."""
        for part in self.data.batch_ramp:
            if step <= part.until_step:
                return part.global_batch_size
        return self.data_of_stage(self.stage_at(step)).global_batch_size

    def tokens_at(self, step: int) -> int:
        """Tokens of the update that completes the step, over all ranks."""
        return self.global_batch_at(step) * self.data_of_stage(self.stage_at(step)).sequence_length

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence that the run trains on."""
        return max([self.data.sequence_length, *(stage.sequence_length for stage in self.data.context_stages)])

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all ranks, in the first context stage at full batch."""
        return self.data.global_batch_size * self.data.sequence_length
