"""Settings of the evaluation service."""

from __future__ import annotations

from typing import ClassVar

from longhaul_core.settings import ServiceSettings
from pydantic import Field


class EvaluationSettings(ServiceSettings):
    """What the evaluation service is told at start."""

    service: ClassVar[str] = "evaluation"

    score_gpus: int = Field(1, ge=0, description="GPUs of a score task; 0 lets it run on any node beside training")
    score_timeout_seconds: int = Field(7200, gt=0, description="after which training ends a score task")
    score_retries: int = Field(2, ge=0, description="tries of a task after failures that are not its own fault")
    attempts: int = Field(3, ge=1, description="score tasks that an evaluation may use up")
    score_concurrency: int = Field(8, ge=1, description="score tasks that are asked for at a time")
    poll_seconds: float = Field(2.0, gt=0, description="between looks where no other service gave a hint")
    retry_seconds: float = Field(1.0, gt=0, description="before a broken stream of another service is opened again")
    failpoints: str = Field("", description="points at which the process kills itself; tests only")
