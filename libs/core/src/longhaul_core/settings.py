"""The configuration of a service process: one frozen class, filled from the environment, read nowhere else."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from longhaul_core.errors import InvalidArgument
from longhaul_core.net import split_address

ENVIRONMENT_PREFIX = "LONGHAUL_"

GRPC_PORTS: Mapping[str, int] = {
    "ingest": 7401,
    "corpus": 7402,
    "training": 7403,
    "checkpoint": 7404,
    "evaluation": 7405,
    "gpuhealth": 7406,
}
"""The port of each service's API."""

METRICS_PORT_OFFSET = 100
"""Metrics are served this many ports above the API."""

SettingsT = TypeVar("SettingsT", bound="ServiceSettings")


class ServiceSettings(BaseSettings):
    """What every service is told at start. A service subclasses it, sets `service` and adds its own fields."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )

    service: ClassVar[str] = "service"

    listen_address: str = Field("127.0.0.1:0", description="host:port of the API; port 0 takes a free one")
    metrics_address: str = Field("127.0.0.1:0", description="host:port of /metrics; empty serves none")
    advertise_address: str = Field("", description="host:port that others reach this replica at; empty: as listened")
    health_address: str = Field("", description="host:port of health alone, without TLS, for probes; empty: none")
    data_dir: Path = Field(Path("longhaul-data"), description="folder of everything that one machine keeps")
    database_url: str = Field("", description="postgresql://… ; empty: an SQLite file in data_dir")
    object_store_url: str = Field("", description="s3://bucket/prefix?endpoint=… or file://… ; empty: in data_dir")
    cluster_url: str = Field("", description="where pods run; empty: local://data_dir/cluster")

    ingest_address: str = "127.0.0.1:7401"
    corpus_address: str = "127.0.0.1:7402"
    training_address: str = "127.0.0.1:7403"
    checkpoint_address: str = "127.0.0.1:7404"
    evaluation_address: str = "127.0.0.1:7405"
    gpuhealth_address: str = "127.0.0.1:7406"

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    allow_insecure: bool = Field(False, description="serve other than loopback without TLS or token")
    api_token: SecretStr = Field(
        SecretStr(""), description="token by which services call one another; empty: callers are not asked who they are"
    )
    users_file: Path | None = Field(None, description="YAML of users, their roles and digests of their tokens")
    pod_token_key: SecretStr = Field(
        SecretStr(""), description="signs the tokens of training pods; empty: made from api_token"
    )
    tls_certificate: Path | None = Field(None, description="PEM chain of the server; with tls_key")
    tls_key: Path | None = None
    tls_ca: Path | None = Field(None, description="PEM roots by which other services are trusted")

    engine: Literal["local", "ray"] = "local"
    workers: int = Field(0, ge=0, description="worker processes of the engine; 0: one a core")

    drain_delay_seconds: float = Field(0.0, ge=0, description="between NOT_SERVING and refusing, for load balancers")
    shutdown_grace_seconds: float = Field(10.0, ge=0, description="for calls in progress after SIGTERM")

    @model_validator(mode="before")
    @classmethod
    def _default_ports(cls, values: Any) -> Any:
        port = GRPC_PORTS.get(cls.service)
        if port is None or not isinstance(values, dict):
            return values
        defaults = {
            "listen_address": f"127.0.0.1:{port}",
            "metrics_address": f"127.0.0.1:{port + METRICS_PORT_OFFSET}",
        }
        return {**defaults, **values}

    @model_validator(mode="after")
    def _check(self) -> Self:
        split_address(self.listen_address, "listen_address")
        if self.metrics_address:
            split_address(self.metrics_address, "metrics_address")
        if self.health_address:
            split_address(self.health_address, "health_address")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together")
        return self

    @property
    def resolved_database_url(self) -> str:
        """The database: as given, or an SQLite file of this service."""
        if self.database_url:
            return self.database_url
        return f"sqlite:///{self.data_dir.absolute() / self.service / f'{self.service}.sqlite3'}"

    @property
    def resolved_object_store_url(self) -> str:
        """The object store: as given, or a folder in `data_dir`."""
        return self.object_store_url or f"file://{self.data_dir.absolute() / 'objects'}"

    @property
    def resolved_cluster_url(self) -> str:
        """The cluster: as given, or the local one in `data_dir`."""
        return self.cluster_url or f"local://{self.data_dir.absolute() / 'cluster'}"

    @property
    def resolved_workers(self) -> int:
        """The number of worker processes: as given, or one a core."""
        return self.workers or len(os.sched_getaffinity(0))


class EngineServiceSettings(ServiceSettings):
    """What a service is told that works on shards in an engine."""

    worker_memory_bytes: int = Field(
        0, ge=0, description="a worker that holds more is ended and its shard counts as failed; 0: no limit"
    )


def load_settings(settings_class: type[SettingsT]) -> SettingsT:
    """Fill the settings of a service from the environment.

    Raises:
        InvalidArgument: A value is wrong, or a variable is a near miss of a known one.
    """
    refuse_misspelt(settings_class, os.environ)
    try:
        return settings_class()
    except ValidationError as error:
        raise _readable(error) from None


def refuse_misspelt(settings_class: type[ServiceSettings], environment: Mapping[str, str]) -> None:
    """Refuse variables that look like a misspelt setting.

    Other variables with the prefix are let be: settings of other services in a shared environment, and those that
    Kubernetes injects for each Service object.

    Raises:
        InvalidArgument: Names the variable and the setting it resembles.
    """
    known = sorted(settings_class.model_fields)
    for variable in sorted(environment):
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not variable.startswith(ENVIRONMENT_PREFIX) or name in settings_class.model_fields:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.88)
        if near:
            raise InvalidArgument(
                f"unknown setting {variable}",
                reason="SETTING_UNKNOWN",
                metadata={"setting": variable},
                action=f"did you mean {ENVIRONMENT_PREFIX}{near[0].upper()}?",
            )


def _readable(error: ValidationError) -> InvalidArgument:
    violations = [
        (".".join(str(part) for part in item["loc"]), item["msg"].removeprefix("Value error, "))
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    lines = [f"{ENVIRONMENT_PREFIX}{field.upper()}: {text}" if field else text for field, text in violations]
    return InvalidArgument("; ".join(lines), reason="SETTINGS_INVALID", violations=violations)
