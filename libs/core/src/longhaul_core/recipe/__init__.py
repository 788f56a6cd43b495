"""Sections of a recipe that client and services share; longhaul_client.recipes reads the whole document."""

from longhaul_core.recipe.batches import BatchRamp, ContextStage, DataConfig
from longhaul_core.recipe.cleaning import CleaningConfig, ExtractionMode, FilterConfig, SourceConfig, SourceKind
from longhaul_core.recipe.corpus import (
    ContaminationAction,
    CorpusConfig,
    DecontaminationConfig,
    DeduplicationConfig,
    Digits,
    EvaluationTasksConfig,
    HoldoutConfig,
    KeepRule,
    TokenizerConfig,
)
from longhaul_core.recipe.layout import (
    AttentionPath,
    Device,
    LayoutConfig,
    PipelineSchedule,
    Precision,
    Recomputation,
    RuntimeConfig,
    layout_problems,
)
from longhaul_core.recipe.model import (
    Activation,
    HybridConfig,
    Initialisation,
    ModelConfig,
    MoeConfig,
    Norm,
    Position,
)
from longhaul_core.recipe.pod import PodConfig, TolerationConfig
from longhaul_core.recipe.presets import MODEL_PRESETS
from longhaul_core.recipe.section import Section
from longhaul_core.recipe.trainer import CheckpointConfig, MetricsConfig, TrainerConfig, ValidationConfig
from longhaul_core.recipe.updates import (
    AnomalyConfig,
    LossConfig,
    OptimizerConfig,
    OptimizerKind,
    RateStage,
    ScheduleConfig,
    ScheduleKind,
)

__all__ = [
    "MODEL_PRESETS",
    "Activation",
    "AnomalyConfig",
    "AttentionPath",
    "BatchRamp",
    "CheckpointConfig",
    "CleaningConfig",
    "ContaminationAction",
    "ContextStage",
    "CorpusConfig",
    "DataConfig",
    "DecontaminationConfig",
    "DeduplicationConfig",
    "Device",
    "Digits",
    "EvaluationTasksConfig",
    "ExtractionMode",
    "FilterConfig",
    "HoldoutConfig",
    "HybridConfig",
    "Initialisation",
    "KeepRule",
    "LayoutConfig",
    "LossConfig",
    "MetricsConfig",
    "ModelConfig",
    "MoeConfig",
    "Norm",
    "OptimizerConfig",
    "OptimizerKind",
    "PipelineSchedule",
    "PodConfig",
    "Position",
    "Precision",
    "RateStage",
    "Recomputation",
    "RuntimeConfig",
    "ScheduleConfig",
    "ScheduleKind",
    "Section",
    "SourceConfig",
    "SourceKind",
    "TokenizerConfig",
    "TolerationConfig",
    "TrainerConfig",
    "ValidationConfig",
    "layout_problems",
]
