"""How a model is spread over ranks, and how the ranks run."""

from collections.abc import Iterator
from enum import StrEnum

from pydantic import Field, NonNegativeInt, PositiveInt

from longhaul_core.recipe.model import ModelConfig, Position
from longhaul_core.recipe.section import Section


class PipelineSchedule(StrEnum):
    """Order of the micro-batches' passes in a pipeline."""

    ONE_F_ONE_B = "1f1b"
    INTERLEAVED = "interleaved"
    ZERO_BUBBLE = "zero_bubble"


class LayoutConfig(Section):
    """Degrees of parallelism; their product, without `expert_parallel`, is the world size."""

    data_parallel: NonNegativeInt = Field(0, description="0: world size divided by the other degrees")
    replicas: PositiveInt = Field(1, description="groups of the data-parallel ranks that hold a whole model each: HSDP")
    tensor_parallel: PositiveInt = Field(1, description="splits matrices and, between them, the sequence")
    pipeline_parallel: PositiveInt = 1
    pipeline_schedule: PipelineSchedule = PipelineSchedule.ONE_F_ONE_B
    context_parallel: PositiveInt = Field(1, description="splits sequences")
    expert_parallel: PositiveInt = Field(1, description="spreads experts over this many of the data-parallel ranks")

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
        for name, degree in (("replicas", self.replicas), ("expert_parallel", self.expert_parallel)):
            if data_parallel % degree:
                raise ValueError(f"{name} {degree} does not divide data_parallel {data_parallel}")
        return self.model_copy(update={"data_parallel": data_parallel})

    def data_rank(self, rank: int) -> int:
        """Which part of each batch a rank reads, the degrees being set; pipeline ranks lie farthest apart."""
        return rank // (self.context_parallel * self.tensor_parallel) % self.data_parallel

    @property
    def stages(self) -> int:
        """Pipeline stages: two a rank where they are interleaved."""
        doubled = self.pipeline_parallel > 1 and self.pipeline_schedule is not PipelineSchedule.ONE_F_ONE_B
        return self.pipeline_parallel * (2 if doubled else 1)


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; parameters and optimizer state stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT8 = "float8"


class Device(StrEnum):
    """Where the workers compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Recomputation(StrEnum):
    """Which activations are computed again in the backward pass instead of kept."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


class AttentionPath(StrEnum):
    """How attention is computed: by one portable kernel, or by FlexAttention on GPUs."""

    AUTO = "auto"
    PORTABLE = "portable"
    FLEX = "flex"


class RuntimeConfig(Section):
    """How the workers run. The thread count is part of the layout: another one gives other round-off."""

    device: Device = Device.AUTO
    precision: Precision = Precision.FLOAT32
    threads_per_worker: PositiveInt = 1
    deterministic: bool = True
    recomputation: Recomputation = Recomputation.NONE
    compile: bool = Field(False, description="compile each block; the first step then takes a minute")
    attention: AttentionPath = AttentionPath.AUTO


def layout_problems(model: ModelConfig, layout: LayoutConfig) -> Iterator[str]:
    """What of a model cannot be split as the layout asks."""
    tensor, moe = layout.tensor_parallel, model.moe
    if tensor > 1:
        if model.kv_heads % tensor:
            yield f"layout.tensor_parallel {tensor} does not divide model.kv_heads {model.kv_heads}"
        if model.ffn_size % tensor:
            yield f"layout.tensor_parallel {tensor} does not divide model.ffn_size {model.ffn_size}"
        if moe.experts or model.hybrid.attention_every:
            yield "layout.tensor_parallel above 1 works with dense attention layers only, not with moe or hybrid"
        if model.position in (Position.LEARNED, Position.ALIBI):
            yield f"layout.tensor_parallel above 1 does not work with model.position {model.position}"
    if model.layers < layout.stages:
        yield f"model.layers {model.layers} are fewer than the {layout.stages} pipeline stages"
    if layout.context_parallel > 1 and model.hybrid.attention_every:
        yield "layout.context_parallel above 1 does not work with model.hybrid: states pass along the whole sequence"
    if layout.expert_parallel > 1:
        if not moe.experts or moe.experts % layout.expert_parallel:
            yield f"layout.expert_parallel {layout.expert_parallel} does not divide model.moe.experts {moe.experts}"
        if layout.replicas > 1 or layout.context_parallel > 1:
            yield "layout.expert_parallel works with replicas 1 and context_parallel 1 only"
