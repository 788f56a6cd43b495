"""Settings of the training service."""

from __future__ import annotations

from typing import ClassVar

from longhaul_core.settings import ServiceSettings
from pydantic import Field

from longhaul_training.domain.observations import Limits


class TrainingSettings(ServiceSettings):
    """What the training service is told at start."""

    service: ClassVar[str] = "training"

    controller_addresses: str = Field(
        "", description="host:port of every replica, separated by commas, as the pods reach them; empty: this one"
    )
    trainer_image: str = Field("", description="image of training and task pods, where pods are containers")
    pod_metrics_address: str = Field(
        "0.0.0.0:7507",
        description="host:port of /metrics in training pods, where pods are containers; empty serves none",
    )
    pod_python: str = Field("", description="Python of the pods; empty: this one, `python` in containers")
    pod_scratch_dir: str = Field("", description="scratch folder of pods; empty: in data_dir, `/scratch` in containers")
    pod_object_store_url: str = Field("", description="the object store as pods reach it; empty: object_store_url")
    pod_checkpoint_address: str = Field("", description="the checkpoint service as pods reach it; empty: as set above")
    pod_secrets: str = Field("", description="Secrets, by comma, whose keys become variables of every pod")
    pod_tolerations: str = Field(
        "nvidia.com/gpu,amd.com/gpu,gpu.intel.com/i915",
        description="taints, key or key=value by comma, that every pod puts up with",
    )
    pod_grace_seconds: float = Field(30.0, gt=0, description="between SIGTERM and SIGKILL of a pod")
    pool_label: str = Field("longhaul.dev/pool", description="label of nodes whose value is their pool")
    lease_seconds: float = Field(6.0, gt=0, description="life of the controller's lease without renewal")
    suspect_silence_seconds: float = Field(5.0, gt=0, description="silence of an agent that makes a run suspect")
    lost_silence_seconds: float = Field(15.0, gt=0, description="silence of an agent that loses its pod")
    reconnect_seconds: float = Field(10.0, ge=0, description="a new leader judges no silence before this has passed")
    join_seconds: float = Field(120.0, gt=0, description="a pod whose agent has not joined by then is replaced")
    start_seconds: float = Field(600.0, gt=0, description="an epoch that makes no step by then is started again")
    drain_seconds: float = Field(60.0, gt=0, description="for a checkpoint before a node is left or a run paused")
    gang_seconds: float = Field(300.0, gt=0, description="pods that have not all started by then give their GPUs back")
    node_dead_seconds: float = Field(
        60.0, gt=0, description="silence beyond the cluster's own that proves a node dead, so that its pods are removed"
    )
    hang_seconds: float = Field(30.0, gt=0, description="no worker moves for this long, and for 3 median steps: a hang")
    straggler_seconds: float = Field(
        60.0, gt=0, description="a rank slower than its peers for this long makes the run check its nodes in pairs"
    )
    slow_seconds: float = Field(
        300.0, gt=0, description="steps slower than the run's own for this long are an alert, much slower a diagnosis"
    )
    elastic_seconds: float = Field(
        20.0,
        ge=0,
        description="an elastic run waits this long for a lost node's replacement before it goes on with fewer",
    )

    def limits(self) -> Limits:
        """The controller's limits."""
        return Limits(
            suspect_silence=self.suspect_silence_seconds,
            lost_silence=self.lost_silence_seconds,
            reconnect=self.reconnect_seconds,
            join=self.join_seconds,
            start=self.start_seconds,
            drain=self.drain_seconds,
            gang=self.gang_seconds,
            hang=self.hang_seconds,
            straggler_seconds=self.straggler_seconds,
            slow_seconds=self.slow_seconds,
            elastic_patience=self.elastic_seconds,
        )
