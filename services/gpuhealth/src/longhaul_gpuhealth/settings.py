"""Settings of the gpuhealth service."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from longhaul_core.cluster import Cluster, JobCluster
from longhaul_core.errors import InvalidArgument
from longhaul_core.settings import ServiceSettings
from pydantic import Field

from longhaul_gpuhealth.adapters.discovery import Discovery, DiscoveryMode
from longhaul_gpuhealth.adapters.hooks import Hook, Webhook
from longhaul_gpuhealth.adapters.job_hook import JobHook, load_job_template
from longhaul_gpuhealth.adapters.pod_hook import PodHook, load_pod_template
from longhaul_gpuhealth.domain.budget import BudgetPolicy
from longhaul_gpuhealth.domain.model import Remedy
from longhaul_gpuhealth.domain.repair import RepairPolicy
from longhaul_gpuhealth.domain.verbs import Policy

SILENT_POLLS = 3
"""A node that misses as many polls is UNKNOWN."""
MINIMUM_LEASE_SECONDS = 2.4
HOOK_TIMEOUT_SECONDS = 10.0


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
    budget_pool_window_share: float = Field(0.34, ge=0, le=1, description="of a pool's nodes that may go in a window")
    budget_pool_total_share: float = Field(0.5, ge=0, le=1, description="of a pool's nodes that may be out at once")
    pool_label: str = Field("longhaul.dev/pool", description="node label that names its pool; empty: no pools")
    driver_settle_seconds: float = Field(
        300.0, ge=0, description="after a node's driver changed, in which no verdict takes it out"
    )
    reset_webhook: str = Field("", description="URL that resets the GPUs of a node; see docs/gpu-health.md")
    reboot_webhook: str = Field("", description="URL that reboots a node")
    reset_job_template: Path | None = Field(None, description="manifest of a Kubernetes Job that resets GPUs of a node")
    reboot_job_template: Path | None = Field(None, description="manifest of a Kubernetes Job that reboots a node")
    reset_pod_template: Path | None = Field(None, description="YAML of a pod that resets the GPUs of its node")
    reboot_pod_template: Path | None = Field(None, description="YAML of a pod that reboots its node")
    release_after_burn_in: bool = Field(
        False, description="a repaired node is tested by a burn-in and, if that passes, released"
    )
    burn_in_peer_share: float = Field(0.1, gt=0, lt=1, description="by which a figure may lie below the best peer's")
    drain_timeout_seconds: float = Field(3600.0, gt=0, description="for work to leave; then a person is called")
    repair_timeout_seconds: float = Field(1800.0, gt=0, description="for a hook; then a person is called")
    burn_in_timeout_seconds: float = Field(3600.0, gt=0, description="for a burn-in; then a person is called")
    repair_poll_seconds: float = Field(10.0, gt=0, description="between looks at a hook that is under way")
    offender_quarantines: int = Field(5, ge=1, description="in seven days, from which on a person is called")
    discovery: DiscoveryMode = Field(
        DiscoveryMode.NODES, description="nodes: as each node says; pods: at its exporter pod; list: of exporters_file"
    )
    exporter_pod_labels: dict[str, str] = Field(
        {"app.kubernetes.io/name": "dcgm-exporter"}, description="of exporter pods, as JSON; for discovery by pods"
    )
    exporter_pod_url: str = Field("http://{address}:9400/metrics", description="of an exporter pod")
    exporters_file: Path | None = Field(None, description="YAML mapping of node to URL; read when it changes")
    prometheus_url: str = Field("", description="of a Prometheus to query in place of the exporters")
    prometheus_node_label: str = Field("Hostname", description="label of its series that names the node")
    prometheus_timeout_seconds: float = Field(10.0, gt=0, description="for a full answer of Prometheus")
    shards: int = Field(16, ge=1, le=1024, description="of nodes, spread over the replicas; the same on all")
    lease_seconds: float = Field(
        0.0, ge=0, description="after which another replica takes over; 0: 1.2 scrape intervals, 2.4 s at least"
    )

    @property
    def silence_seconds(self) -> float:
        """After which a node is UNKNOWN."""
        return SILENT_POLLS * self.scrape_interval_seconds + self.scrape_timeout_seconds

    @property
    def round_seconds(self) -> float:
        """In which every node is scraped once, the slow ones too."""
        return self.scrape_interval_seconds + self.scrape_timeout_seconds

    @property
    def lease_ttl_seconds(self) -> float:
        """With the default, a dead replica's nodes are scraped again within two intervals of 2 s or more."""
        return self.lease_seconds or max(MINIMUM_LEASE_SECONDS, 1.2 * self.scrape_interval_seconds)

    def open_discovery(self) -> Discovery:
        """How exporters are found."""
        return Discovery(self.discovery, self.exporter_pod_labels, self.exporter_pod_url, self.exporters_file)

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
                pool_window_share=self.budget_pool_window_share,
                pool_total_share=self.budget_pool_total_share,
            ),
            dry_run=self.dry_run,
            recovery_seconds=self.recovery_seconds,
            offender_quarantines=self.offender_quarantines,
            repair=RepairPolicy(
                hooks=frozenset(self._hooks()),
                burn_in=self.release_after_burn_in,
                drain_timeout_seconds=self.drain_timeout_seconds,
                repair_timeout_seconds=self.repair_timeout_seconds,
                burn_in_timeout_seconds=self.burn_in_timeout_seconds,
                offender_quarantines=self.offender_quarantines,
            ),
        )

    def _hooks(self) -> list[Remedy]:
        return [remedy for remedy, given in self._given().items() if any(given)]

    def _given(self) -> dict[Remedy, tuple[str, Path | None, Path | None]]:
        """URL, Job template and pod template of each remedy."""
        return {
            Remedy.RESET: (self.reset_webhook, self.reset_job_template, self.reset_pod_template),
            Remedy.REBOOT: (self.reboot_webhook, self.reboot_job_template, self.reboot_pod_template),
        }

    def open_hooks(self, cluster: Cluster) -> dict[Remedy, Hook]:
        """Hooks by remedy; a webhook outranks a Job, a Job a pod. Raises `InvalidArgument` for an unusable template."""
        hooks: dict[Remedy, Hook] = {}
        for remedy, (url, job, pod) in self._given().items():
            if url:
                hooks[remedy] = Webhook(url, HOOK_TIMEOUT_SECONDS)
            elif job is not None:
                if not isinstance(cluster, JobCluster):
                    raise _no_jobs(remedy)
                hooks[remedy] = JobHook(cluster, load_job_template(job))
            elif pod is not None:
                hooks[remedy] = PodHook(cluster, load_pod_template(pod))
        return hooks


def _no_jobs(remedy: Remedy) -> InvalidArgument:
    setting = f"{remedy.name.lower()}_job_template"
    return InvalidArgument(
        f"{setting}: this cluster runs no Jobs, only Kubernetes does",
        reason="JOBS_UNKNOWN",
        violations=[(setting, "this cluster runs no Jobs")],
        action=f"use {remedy.name.lower()}_pod_template or {remedy.name.lower()}_webhook",
    )
