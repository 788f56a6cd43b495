"""Settings of the ingest service."""

from __future__ import annotations

from typing import ClassVar

from longhaul_core.settings import EngineServiceSettings
from pydantic import Field


class IngestSettings(EngineServiceSettings):
    """What the ingest service is told at start."""

    service: ClassVar[str] = "ingest"

    shard_lease_seconds: float = Field(6.0, gt=0, description="a dead replica's shards are taken over after this")
    shard_attempts: int = Field(3, ge=1, description="a shard that kills its worker so often is set aside")
    poll_seconds: float = Field(0.25, gt=0, description="between looks for work of other replicas")
    upload_maximum_bytes: int = Field(
        64 << 30, ge=0, description="files of a user's machine that one submission may bring; 0 takes none"
    )
    failpoints: str = Field("", description="points at which the process kills itself, for tests of recovery")
