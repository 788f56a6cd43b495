"""The recipe: one document that states a whole pipeline, from sources to evaluation."""

from typing import Literal, Self

from longhaul_core.recipe import (
    AnomalyConfig,
    CheckpointConfig,
    CleaningConfig,
    CorpusConfig,
    DataConfig,
    LayoutConfig,
    LossConfig,
    MetricsConfig,
    ModelConfig,
    OptimizerConfig,
    PodConfig,
    RuntimeConfig,
    ScheduleConfig,
    Section,
    SourceConfig,
    StartConfig,
    TokenizerConfig,
    TrainerConfig,
    ValidationConfig,
)
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class TrainingSection(Section):
    """How the model learns."""

    steps: PositiveInt = 300
    seed: NonNegativeInt = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    anomalies: AnomalyConfig = AnomalyConfig()
    metrics: MetricsConfig = MetricsConfig()
    start: StartConfig = StartConfig()


class EvaluationTask(Section):
    """A task of the token set and the numbers of examples to score it with."""

    task: str
    few_shot: list[NonNegativeInt] = Field(default_factory=lambda: [0])
    limit: NonNegativeInt = Field(0, description="items at most; 0: all")


DEFAULT_TASKS = (EvaluationTask(task="bits_per_byte"), EvaluationTask(task="cloze", few_shot=[0, 2]))


class EvaluationSection(Section):
    """What every committed checkpoint is scored with."""

    tasks: list[EvaluationTask] = Field(default_factory=lambda: list(DEFAULT_TASKS), min_length=1)
    every_steps: NonNegativeInt = Field(0, description="only checkpoints at a multiple of this; 0: every one")
    batch_size: PositiveInt = Field(8, description="pinned: it moves scores")
    seed: NonNegativeInt = 0


class ResourcesSection(Section):
    """The nodes that the run asks for, and what the plan assumes of them."""

    nodes: PositiveInt = 1
    gpus_per_node: PositiveInt = 1
    spares: NonNegativeInt = Field(0, description="warm pods that have passed their checks and replace a failing one")
    node_failures_per_day: NonNegativeFloat = Field(
        0.0, description="failures of a node a day: above 0, spares are sized to suffice 99 % of the time"
    )
    node_repair_hours: NonNegativeFloat = Field(24.0, description="how long a failed node is away, for that sizing")
    minimum_nodes: NonNegativeInt = Field(
        0, description="go on with as few nodes when a lost one can't be replaced, and grow back; 0: wait"
    )
    preflight: Literal["quick", "full", "off"] = Field(
        "quick", description="checks before the first step; full: also GPUs against peers, all-reduce, data, drills"
    )
    priority: int = 0
    pool: str = Field("", description="node pool; empty: any")
    image: str = Field("", description="image of the trainer, where pods are containers; empty: the installation's")
    pod: PodConfig = PodConfig()
    accelerator: str = Field("cpu", description="cpu, a100, h100, h200, …: the peak that the plan reckons with")
    expected_mfu: float = Field(0.0, ge=0, le=1, description="0: from published runs of the size")
    price_per_gpu_hour: NonNegativeFloat = 0.0

    @property
    def world_size(self) -> int:
        """GPUs over all nodes: one worker each."""
        return self.nodes * self.gpus_per_node


class ReferenceSection(Section):
    """An earlier run that this one is compared with as it goes."""

    run: str = Field("", description="id of the run; empty: none")
    basis: Literal["tokens", "flops"] = Field("tokens", description="compared at equal tokens or equal FLOPs")
    margin: NonNegativeFloat = Field(0.05, description="loss by which this run may be behind, nats")


class Recipe(Section):
    """A pipeline: sources, cleaning, corpus, tokenizer, model, training, checkpoints, evaluation, resources."""

    version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    project: str = Field("default", pattern=NAME_PATTERN)
    reason: str = Field("", description="why train from scratch: research, production or open-gap")
    continues: list[str] = Field(
        default_factory=list, description="names of earlier ingestions: of the sources only what is new is taken"
    )
    sources: list[SourceConfig] = Field(min_length=1)
    cleaning: CleaningConfig = CleaningConfig()
    corpus: CorpusConfig = CorpusConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingSection = TrainingSection()
    layout: LayoutConfig = LayoutConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationSection = EvaluationSection()
    resources: ResourcesSection = ResourcesSection()
    reference: ReferenceSection = ReferenceSection()

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: the name {twice[0]!r} is given twice")
        unknown = sorted(set(self.corpus.mixture) - set(names))
        if unknown:
            raise ValueError(f"corpus.mixture: {unknown[0]!r} is not a source; there are {', '.join(names)}")
        self.trainer_config().check_world_size(self.resources.world_size)
        least, nodes = self.resources.minimum_nodes, self.resources.nodes
        if least > nodes:
            raise ValueError(f"resources.minimum_nodes {least} is above resources.nodes {nodes}")
        return self

    def trainer_config(self) -> TrainerConfig:
        """Return what the trainer is told of this recipe."""
        return TrainerConfig(
            **dict(self.training),
            model=self.model,
            checkpoint=self.checkpoints,
            layout=self.layout,
        )
