"""Settings of the gpuhealth service."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from longhaul_core.settings import ServiceSettings
from pydantic import Field

from longhaul_gpuhealth.domain.budget import BudgetPolicy
from longhaul_gpuhealth.domain.verbs import Policy

SILENT_POLLS = 3
"""A node that misses as many polls is UNKNOWN."""


class GpuHealthSettings(ServiceSettings):
    """What the service is told at start."""

    service: ClassVar[str] = "gpuhealth"

    scrape_interval_seconds: float = Field(1.0, gt=0, description="between scrapes of one node; 5 s for large clusters")
    scrape_timeout_seconds: float = Field(2.0, gt=0, description="for a full answer of an exporter")
    scrape_maximum_bytes: int = Field(8 << 20, gt=0, description="of one answer; longer ones count as failed")
    rules_file: Path | None = Field(
        None, description="YAML of rules in place of the shipped ones; read when it changes"
    )
    dry_run: bool = Field(False, description="decide and tell, but mark no node")
    budget_window_seconds: float = Field(300.0, gt=0, description="over which quarantines are counted")
    budget_window_share: float = Field(0.2, ge=0, le=1, description="of all nodes that may go within a window")
    budget_total_share: float = Field(0.4, ge=0, le=1, description="of all nodes that may be out at once")
    budget_breaker_share: float = Field(0.5, gt=0, le=1, description="of all nodes asked for in a window: all stops")
    budget_minimum_nodes: int = Field(1, ge=0, description="that may go in a window however small the cluster")
    recovery_seconds: float = Field(60.0, ge=0, description="for which a released node is watched as RECOVERING")
    lease_seconds: float = Field(5.0, gt=0, description="after which another replica takes over")

    @property
    def silence_seconds(self) -> float:
        """After which a node is UNKNOWN."""
        return SILENT_POLLS * self.scrape_interval_seconds + self.scrape_timeout_seconds

    @property
    def policy(self) -> Policy:
        """How decisions are made."""
        return Policy(
            budget=BudgetPolicy(
                window_seconds=self.budget_window_seconds,
                window_share=self.budget_window_share,
                total_share=self.budget_total_share,
                breaker_share=self.budget_breaker_share,
                minimum_nodes=self.budget_minimum_nodes,
            ),
            dry_run=self.dry_run,
            recovery_seconds=self.recovery_seconds,
        )
