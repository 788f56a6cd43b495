"""What a training pod is told through its environment."""

from __future__ import annotations

import socket
from pathlib import Path

from longhaul_core.ids import ResourceName
from longhaul_core.net import is_loopback, split_address
from longhaul_core.settings import ENVIRONMENT_PREFIX
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class AgentSettings(BaseSettings):
    """Identity of the pod and the addresses it needs. The controller writes them into the pod."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    project: str
    run: str
    pod: str
    slot: int = Field(ge=0)
    incarnation: int = Field(ge=0)
    agent_token: SecretStr
    controller_addresses: str = Field(description="host:port of every replica, separated by commas")
    object_store_url: str
    checkpoint_address: str
    node: str
    image: str = Field("", description="of the pod's container, recorded with each checkpoint")
    gpus: int = Field(1, ge=0)
    scratch_dir: Path
    pod_ip: str = Field("", description="address at which other pods reach this one; empty: found by a route")
    tls_ca_pem: str = Field("", description="PEM roots by which the services are trusted; empty: no TLS")
    log_level: str = "info"
    log_format: str = "json"
    metrics_address: str = Field("", description="host:port of /metrics; empty serves none")
    metrics_targets_dir: Path | None = Field(None, description="folder for a Prometheus target file of this pod")
    grace_seconds: float = Field(60.0, ge=0, description="for a checkpoint after SIGTERM")

    @property
    def controllers(self) -> tuple[str, ...]:
        """Addresses of the controller's replicas."""
        return tuple(part.strip() for part in self.controller_addresses.split(",") if part.strip())

    @property
    def workers(self) -> int:
        """Worker processes of this pod: one a GPU, one without a GPU."""
        return max(1, self.gpus)

    @property
    def run_name(self) -> str:
        """Full name of the training run."""
        return str(ResourceName(self.project, "trainingRuns", self.run))

    def host(self) -> str:
        """Address at which the other pods reach this one."""
        if self.pod_ip:
            return self.pod_ip
        controller, port = split_address(self.controllers[0])
        if is_loopback(controller):
            return "127.0.0.1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((controller, port))
            address: str = probe.getsockname()[0]
            return address
