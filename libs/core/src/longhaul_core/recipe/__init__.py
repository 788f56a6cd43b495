"""Sections of a recipe that client and services share; longhaul_client.recipes reads the whole document."""

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
from longhaul_core.recipe.pod import PodConfig, TolerationConfig
from longhaul_core.recipe.section import Section
from longhaul_core.recipe.trainer import (
    CheckpointConfig,
    DataConfig,
    Device,
    LayoutConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    RuntimeConfig,
    ScheduleConfig,
    TrainerConfig,
    ValidationConfig,
)

__all__ = [
    "CheckpointConfig",
    "CleaningConfig",
    "ContaminationAction",
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
    "KeepRule",
    "LayoutConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PodConfig",
    "Precision",
    "RuntimeConfig",
    "ScheduleConfig",
    "Section",
    "SourceConfig",
    "SourceKind",
    "TokenizerConfig",
    "TolerationConfig",
    "TrainerConfig",
    "ValidationConfig",
]
