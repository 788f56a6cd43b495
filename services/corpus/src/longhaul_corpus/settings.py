"""Settings of the corpus service."""

from typing import ClassVar

from longhaul_core.settings import EngineServiceSettings
from pydantic import Field


class CorpusSettings(EngineServiceSettings):
    """What the corpus service is told at start."""

    service: ClassVar[str] = "corpus"

    shard_lease_seconds: float = Field(6.0, gt=0, description="a dead replica's shards are taken over after this")
    shard_attempts: int = Field(3, ge=1, description="a shard that kills its worker so often is set aside")
    failpoints: str = Field("", description="points at which the process kills itself, for tests of recovery")
