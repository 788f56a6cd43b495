"""What the trainer is told: one configuration that the client writes, the controller checks, the workers read."""

from enum import StrEnum
from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from longhaul_core.recipe.section import Section


class ModelConfig(Section):
    """Shape of a dense decoder: RMSNorm, RoPE, SwiGLU, grouped-query attention."""

    hidden_size: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    ffn_size: PositiveInt = 384
    vocabulary_size: NonNegativeInt = Field(0, description="0: that of the token set's tokenizer")
    rope_theta: PositiveFloat = 50_000.0
    norm_epsilon: PositiveFloat = 1e-5
    tied_embeddings: bool = True
    init_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        if (self.hidden_size // self.heads) % 2:
            raise ValueError(f"head size {self.hidden_size // self.heads} is odd: rotary positions need an even one")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.heads


class OptimizerConfig(Section):
    """AdamW; embeddings and norms are not decayed."""

    learning_rate: PositiveFloat = 3e-3
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    gradient_clip: PositiveFloat = 1.0


class ScheduleConfig(Section):
    """Warm-up, stable, decay (WSD): linear warm-up, constant, then linear decay to `minimum_ratio`."""

    warmup_steps: NonNegativeInt = 20
    decay_fraction: float = Field(0.2, ge=0, le=1, description="share of all steps spent in the decay")
    minimum_ratio: float = Field(0.0, ge=0, le=1, description="learning rate at the end, as a share of the peak")


class DataConfig(Section):
    """How batches are drawn from the token set."""

    sequence_length: PositiveInt = 256
    global_batch_size: PositiveInt = Field(16, description="sequences an optimizer step, over all ranks")
    micro_batch_size: PositiveInt = Field(8, description="sequences a rank holds at once; the rest is accumulated")
    document_masking: bool = Field(True, description="attention stays inside a document")
    shuffle_seed: NonNegativeInt = 0
    maximum_epochs: PositiveFloat = Field(5.0, description="the run fails before a source is repeated more often")
    mixture: dict[str, PositiveFloat] = Field(default_factory=dict, description="weights; empty: the token set's own")


class ValidationConfig(Section):
    """Loss on the held-out split."""

    every_steps: NonNegativeInt = Field(50, description="0: never")
    sequences: PositiveInt = 64


class CheckpointConfig(Section):
    """When checkpoints are written and which are kept."""

    every_steps: PositiveInt = 50
    keep_last: PositiveInt = 3
    keep_every_steps: NonNegativeInt = Field(0, description="keep each checkpoint whose step is a multiple; 0: none")


class LayoutConfig(Section):
    """Degrees of parallelism; their product is the world size."""

    data_parallel: NonNegativeInt = Field(0, description="0: world size divided by the other degrees")
    tensor_parallel: PositiveInt = 1
    pipeline_parallel: PositiveInt = 1
    context_parallel: PositiveInt = 1

    def resolve(self, world_size: int) -> "LayoutConfig":
        """Return the layout with every degree set.

        Raises:
            ValueError: when the degrees do not fill the world size.
        """
        others = self.tensor_parallel * self.pipeline_parallel * self.context_parallel
        data_parallel = self.data_parallel or world_size // others
        if data_parallel * others != world_size:
            raise ValueError(
                f"data_parallel {data_parallel} × tensor_parallel {self.tensor_parallel} × pipeline_parallel "
                f"{self.pipeline_parallel} × context_parallel {self.context_parallel} = {data_parallel * others}, "
                f"but there are {world_size} GPUs"
            )
        return self.model_copy(update={"data_parallel": data_parallel})


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; parameters and optimizer state stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Device(StrEnum):
    """Where the workers compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class RuntimeConfig(Section):
    """How the workers run. The thread count is part of the layout: another one gives other round-off."""

    device: Device = Device.AUTO
    precision: Precision = Precision.FLOAT32
    threads_per_worker: PositiveInt = 1
    deterministic: bool = True


class TrainerConfig(Section):
    """Everything that determines the losses of a run, given its token set."""

    steps: PositiveInt = 300
    seed: NonNegativeInt = 0
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    layout: LayoutConfig = LayoutConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.schedule.warmup_steps + self.schedule.decay_fraction * self.steps > self.steps:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} and the decay of "
                f"{self.schedule.decay_fraction:.0%} do not fit in {self.steps} steps"
            )
        return self

    def check_world_size(self, world_size: int) -> LayoutConfig:
        """Return the resolved layout, after checking that the global batch divides over it.

        Raises:
            ValueError: naming the degrees or sizes that do not fit.
        """
        layout = self.layout.resolve(world_size)
        unsupported = [
            name for name in ("tensor_parallel", "pipeline_parallel", "context_parallel") if getattr(layout, name) > 1
        ]
        if unsupported:
            raise ValueError(f"layout.{unsupported[0]} above 1 is not supported; use data_parallel")
        if self.data.global_batch_size % layout.data_parallel:
            raise ValueError(
                f"data.global_batch_size {self.data.global_batch_size} is not a multiple of data_parallel "
                f"{layout.data_parallel}"
            )
        per_rank = self.data.global_batch_size // layout.data_parallel
        if per_rank % min(self.data.micro_batch_size, per_rank):
            raise ValueError(
                f"{per_rank} sequences a rank is not a multiple of data.micro_batch_size {self.data.micro_batch_size}"
            )
        return layout

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all ranks."""
        return self.data.global_batch_size * self.data.sequence_length
