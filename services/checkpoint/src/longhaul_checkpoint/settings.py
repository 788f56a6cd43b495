"""Settings of the checkpoint service."""

from __future__ import annotations

from typing import ClassVar

from longhaul_core.settings import ServiceSettings
from pydantic import Field


class CheckpointSettings(ServiceSettings):
    """What the checkpoint service is told at start."""

    service: ClassVar[str] = "checkpoint"

    verify_threads: int = Field(4, ge=1, description="parts that are read back and hashed at a time")
    reverify_seconds: float = Field(
        3600.0, ge=0, description="age after which GetLatest reads untouched parts again before it names a checkpoint"
    )
    retention_interval_seconds: float = Field(10.0, gt=0, description="between rounds over runs that changed")
    full_round_seconds: float = Field(3600.0, gt=0, description="between rounds over all runs")
    stale_seconds: float = Field(
        600.0, ge=0, description="age at which uncommitted objects of replaced epochs are removed"
    )
    abandoned_seconds: float = Field(
        86_400.0, gt=0, description="age at which a begun checkpoint of the present epoch is given up"
    )
    scrub_interval_seconds: float = Field(3600.0, gt=0, description="between looks for checkpoints to scrub")
    scrub_seconds: float = Field(7 * 86_400.0, gt=0, description="every committed checkpoint is read this often")
    failpoints: str = Field("", description="points at which the process kills itself; tests only")
